"""Seeds: functions of names and numbers, so that no result depends on the order of the work."""

from __future__ import annotations

import hashlib


def clip_seed(seed: int, prompt_id: str, index: int) -> int:
    """The seed of a prompt's index-th clip: a function of its arguments alone, in 0..2**63 - 1."""
    digest = hashlib.sha256(f"{seed}/{prompt_id}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


HIGHEST_SEED = 2**63 - 1


def step_seed(seed: int, stride: int, step: int) -> int:
    """The seed of a training's step, 0 to 2**63 - 1: seed * stride + step, taken round where that is more.

    These numbers are kept because published trainings drew from them. Nothing is taken round below a seed of 10**12.
    """
    return (seed * stride + step) % (HIGHEST_SEED + 1)
