"""Good clips of the embedded world: clean renderings of its captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from halovid.maths.seeds import clip_seed
from halovid.records import Prompt
from halovid.store.errors import InputError
from halovid.world.captions import parse_caption
from halovid.world.render import render_scene
from halovid.world.scenes import SceneSpec, place_scene


def clean_renderings(prompts: Sequence[Prompt], per_prompt: int, seed: int) -> list[list[Callable[[], Tensor]]]:
    """For each prompt `per_prompt` functions that render a clean clip of it, [3, 13, 64, 64] in [-1, 1].

    The renderings of a prompt differ in positions, speeds and sizes; each depends on seed, prompt id and its number.

    Raises:
        InputError: a prompt is no caption of the embedded world.
    """
    try:
        specs = [parse_caption(prompt.text) for prompt in prompts]
    except ValueError as error:
        raise InputError(f"good.source is 'world': {error}; name a folder of clips instead") from error
    return [
        [partial(_render, spec, clip_seed(seed, prompt.prompt_id, index)) for index in range(per_prompt)]
        for prompt, spec in zip(prompts, specs, strict=True)
    ]


def _render(spec: SceneSpec, seed: int) -> Tensor:
    return render_scene(place_scene(spec, np.random.default_rng([seed, 2])))
