"""Good clips of prompts: clean renderings of an embedded world, or a folder of clips with their prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from halovid.config.packaged import PACKAGED_SIZES
from halovid.config.pairs import GoodConfig
from halovid.formats import get_format
from halovid.records import Prompt
from halovid.store.errors import InputError
from halovid.store.files import hash_folder
from halovid.store.lazy import load_named
from halovid.store.video import probe_video, read_video

# `good.source` -> function (prompts, per_prompt, seed) that returns, for each prompt, functions that make its clips; a
# ValueError says why a prompt has none
MADE_SOURCES = {
    "world": "halovid.world.good_clips:plain_renderings",
    "panorama": "halovid.world.good_clips:panorama_renderings",
}


@dataclass(frozen=True)
class GoodClip:
    """A good clip of a prompt, with its clip_id; `load` returns its pixels, [3, F, H, W] in [-1, 1]."""

    name: str
    prompt: Prompt
    load: Callable[[], Tensor]


def find_good_clips(
    config: GoodConfig, prompts: Sequence[Prompt], size: tuple[int, int, int], seed: int
) -> tuple[list[GoodClip], list[tuple[str, str]]]:
    """At most `per_prompt` good clips of every prompt, and (item, reason) of what can't be used.

    Raises:
        InputError: there is none at all, or the source is an embedded world and a prompt is no caption of it.
    """
    if config.source in MADE_SOURCES:
        try:
            makers = load_named(MADE_SOURCES[config.source])(prompts, config.per_prompt, seed)
        except ValueError as error:
            raise InputError(f"good.source is {config.source!r}: {error}; name a folder of clips instead") from error
        return [
            GoodClip(_name(prompt, index), prompt, make)
            for prompt, makers_of_prompt in zip(prompts, makers, strict=True)
            for index, make in enumerate(makers_of_prompt)
        ], []
    return _read_folder(config, prompts, size)


def _read_folder(
    config: GoodConfig, prompts: Sequence[Prompt], size: tuple[int, int, int]
) -> tuple[list[GoodClip], list[tuple[str, str]]]:
    """As `find_good_clips`, from a folder of clips with their prompts."""
    source = get_format("folder").read(Path(config.source))
    skipped, prompt_of_text = list(source.skipped), {prompt.text: prompt for prompt in prompts}
    by_prompt: dict[str, list[GoodClip]] = {prompt.prompt_id: [] for prompt in prompts}
    for clip in source.clips.values():
        prompt = prompt_of_text.get(clip.prompt)
        if prompt is None:
            skipped.append((clip.name, "its prompt is none of the run's"))
            continue
        clips_of_prompt = by_prompt[prompt.prompt_id]
        if len(clips_of_prompt) == config.per_prompt:
            continue
        try:
            probe_video(clip.files[0])
        except InputError as error:
            skipped.append((clip.name, str(error)))
        else:
            name, load = _name(prompt, len(clips_of_prompt)), partial(read_video, clip.files[0], size[1:], size[0])
            clips_of_prompt.append(GoodClip(name, prompt, load))
    skipped += [(name, f"no good clip of it in {config.source}") for name, clips in by_prompt.items() if not clips]
    usable = [clip for clips in by_prompt.values() for clip in clips]
    if not usable:
        raise InputError(f"{config.source} holds no usable clip of any of {len(prompts)} prompts; see good.source")
    return usable, skipped


def source_identity(config: GoodConfig, size: tuple[int, int, int]) -> str:
    """What the good clips depend on, for a fingerprint: the name of a built-in source, or the hash of a folder.

    Raises:
        InputError: see `check_source`.
    """
    check_source(config, size)
    return config.source if config.source in MADE_SOURCES else hash_folder(Path(config.source))


def check_source(config: GoodConfig, size: tuple[int, int, int]) -> None:
    """Raises InputError when there is no such source of good clips, or it makes clips of another size than the run's.

    Args:
        size: frames, height and width of the run's clips.
    """
    made = PACKAGED_SIZES.get(config.source, size)
    if made != size:
        raise InputError(
            f"good.source is {config.source!r}, whose clips have {made[0]} frames of {made[1]} x {made[2]} pixels, but "
            f"those of the run have {size[0]} of {size[1]} x {size[2]}: name the world of generator.model, or a folder"
        )
    if config.source not in MADE_SOURCES and not Path(config.source).is_dir():
        raise InputError(
            f"good.source is {config.source!r}: give {', '.join(map(repr, MADE_SOURCES))}, or a folder of mp4 "
            f"files with a prompts.csv"
        )


def _name(prompt: Prompt, index: int) -> str:
    return f"good-{prompt.prompt_id}-{index:02d}"
