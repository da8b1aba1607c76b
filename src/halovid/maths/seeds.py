"""Seeds: functions of names and numbers, so that no result depends on the order of the work.

All lie in the range that torch, numpy and the tables hold: 0 to 2**63 - 1.
"""

from __future__ import annotations

import hashlib

HIGHEST_SEED = 2**63 - 1


def derive_seed(*parts: object) -> int:
    """A seed that is a function of `parts` alone, 0 to 2**63 - 1: SHA-256 of their texts, joined by slashes."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def clip_seed(seed: int, prompt_id: str, index: int) -> int:
    """The seed of a prompt's index-th clip: a function of its arguments alone, 0 to 2**63 - 1."""
    return derive_seed(seed, prompt_id, index)


def step_seed(seed: int, stride: int, step: int) -> int:
    """The seed of a training's step: (seed * stride + step) modulo 2**63.

    `derive_seed` would mix better; these numbers are kept because published trainings drew from them. Below a seed of
    10**12 the modulo changes nothing.
    """
    return (seed * stride + step) % (HIGHEST_SEED + 1)
