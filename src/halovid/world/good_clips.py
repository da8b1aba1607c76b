"""Good clips of the embedded worlds: clean renderings of their captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from halovid.maths.seeds import clip_seed
from halovid.records import Prompt
from halovid.world.captions import parse_caption
from halovid.world.render import render_scene
from halovid.world.scenes import SceneSpec, place_scene
from halovid.world.worlds import PANORAMA, PLAIN, World

Renderings = list[list[Callable[[], Tensor]]]  # for each prompt, functions that render a clean clip of it


def plain_renderings(prompts: Sequence[Prompt], per_prompt: int, seed: int) -> Renderings:
    """`clean_renderings` in the plain world."""
    return clean_renderings(prompts, per_prompt, seed, PLAIN)


def panorama_renderings(prompts: Sequence[Prompt], per_prompt: int, seed: int) -> Renderings:
    """`clean_renderings` in the panorama world."""
    return clean_renderings(prompts, per_prompt, seed, PANORAMA)


def clean_renderings(prompts: Sequence[Prompt], per_prompt: int, seed: int, world: World) -> Renderings:
    """For each prompt `per_prompt` functions that render a clean clip of it, [3, F, H, W] in [-1, 1].

    The renderings of a prompt differ in all that a caption leaves open, as positions, speeds and sizes; each depends on
    world, seed, prompt id and its number.

    Raises:
        ValueError: a prompt is no caption of the embedded world.
    """
    return [
        [
            partial(_render, parse_caption(prompt.text), clip_seed(seed, prompt.prompt_id, index), world)
            for index in range(per_prompt)
        ]
        for prompt in prompts
    ]


def _render(spec: SceneSpec, seed: int, world: World) -> Tensor:
    return render_scene(place_scene(spec, np.random.default_rng([seed, 2]), world))
