"""Prompts of the embedded world: captions of random scenes."""

from __future__ import annotations

import numpy as np

from halovid.config.run import PromptsConfig
from halovid.records import Prompt
from halovid.world.captions import parse_caption, write_caption
from halovid.world.scenes import sample_spec

_DEFAULT_COUNT = 64


def draw_captions(config: PromptsConfig) -> list[Prompt]:
    """`config.count` captions (64 when it is left out): each a function of split, seed and its number alone."""
    prompts = []
    for index in range(config.count or _DEFAULT_COUNT):
        rng = np.random.default_rng([config.seed, index, config.split == "heldout", 7])
        prompts.append(Prompt(f"p{index:05d}", write_caption(sample_spec(rng, config.split), rng)))
    return prompts


def caption_problem(text: str) -> str | None:
    """Why a prompt can't be measured in the embedded world, or None for a caption of it."""
    try:
        parse_caption(text)
    except ValueError as error:
        return str(error)
    return None
