"""Good clips of prompts: clean renderings of the embedded world, or a folder of clips with their prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from halovid.config.run import GoodConfig
from halovid.formats import get_format
from halovid.maths.seeds import clip_seed
from halovid.records import Prompt
from halovid.store.errors import InputError
from halovid.store.files import hash_folder
from halovid.store.video import probe_video, read_video
from halovid.world.captions import parse_caption
from halovid.world.render import render_scene
from halovid.world.scenes import SceneSpec, place_scene


@dataclass(frozen=True)
class GoodClip:
    """A good clip of a prompt; `load` gives it, [3, F, H, W] in [-1, 1]."""

    name: str
    prompt: Prompt
    load: Callable[[], Tensor]


def find_good_clips(
    config: GoodConfig, prompts: Sequence[Prompt], size: tuple[int, int, int], seed: int
) -> tuple[list[GoodClip], list[tuple[str, str]]]:
    """At most `per_prompt` good clips of every prompt, and (item, reason) of what can't be used.

    Raises:
        InputError: there is none at all, or the source is "world" and a prompt is no caption of it.
    """
    if config.source == "world":
        return _rendered(config, prompts, seed), []
    source = get_format("folder").read(Path(config.source))
    skipped, wanted = list(source.skipped), {prompt.text: prompt for prompt in prompts}
    found: dict[str, list[GoodClip]] = {prompt.prompt_id: [] for prompt in prompts}
    for clip in source.clips.values():
        prompt = wanted.get(clip.prompt)
        if prompt is None:
            skipped.append((clip.name, "its prompt is none of the run's"))
            continue
        own = found[prompt.prompt_id]
        if len(own) == config.per_prompt:
            continue
        try:
            probe_video(clip.files[0])
        except InputError as error:
            skipped.append((clip.name, str(error)))
        else:
            own.append(GoodClip(_name(prompt, len(own)), prompt, partial(read_video, clip.files[0], size[1:], size[0])))
    skipped += [(name, f"no good clip of it in {config.source}") for name, own in found.items() if not own]
    clips = [clip for own in found.values() for clip in own]
    if not clips:
        raise InputError(f"{config.source} holds no usable clip of any of {len(prompts)} prompts; see good.source")
    return clips, skipped


def source_identity(config: GoodConfig) -> str:
    """A hash of what the good clips are made of."""
    return config.source if config.source == "world" else hash_folder(Path(config.source))


def _rendered(config: GoodConfig, prompts: Sequence[Prompt], seed: int) -> list[GoodClip]:
    """Clean renderings of the prompts, each with places and phases of its own."""
    try:
        specs = [parse_caption(prompt.text) for prompt in prompts]
    except ValueError as error:
        raise InputError(f"good.source is 'world': {error}; name a folder of clips instead") from error
    return [
        GoodClip(_name(prompt, index), prompt, partial(_render, spec, clip_seed(seed, prompt.prompt_id, index)))
        for prompt, spec in zip(prompts, specs, strict=True)
        for index in range(config.per_prompt)
    ]


def _render(spec: SceneSpec, seed: int) -> Tensor:
    return render_scene(place_scene(spec, np.random.default_rng([seed, 2])))


def _name(prompt: Prompt, index: int) -> str:
    return f"good-{prompt.prompt_id}-{index:02d}"
