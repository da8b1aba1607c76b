"""Good clips: rendered from captions, or found in a folder by their prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from halovid.clips.good_clips import check_source, find_good_clips, source_identity
from halovid.config.pairs import GoodConfig
from halovid.maths.grid import PatchGrid
from halovid.records import Prompt
from halovid.store.errors import InputError
from halovid.store.files import write_text
from halovid.store.video import write_video
from halovid.world.captions import parse_caption, write_caption
from halovid.world.inspector import inspect
from halovid.world.scenes import sample_scene
from halovid.world.worlds import PANORAMA, PLAIN, World

SIZE = (13, 64, 64)
SOURCES = [("world", PLAIN), ("panorama", PANORAMA)]


@pytest.mark.parametrize(("source", "world"), SOURCES)
def test_renderings_are_clean_clips_of_the_captions_each_another(source: str, world: World) -> None:
    caption = write_caption(sample_scene(3, "heldout").spec, np.random.default_rng(0))
    config = GoodConfig(source=source, per_prompt=2)
    clips, skipped = find_good_clips(config, [Prompt("p", caption)], world.clip_shape, seed=5)
    assert [clip.name for clip in clips] == ["good-p-00", "good-p-01"] and not skipped
    first, second = (clip.load() for clip in clips)
    assert first.shape == second.shape == (3, *world.clip_shape)
    assert not torch.equal(first, second)
    assert torch.equal(first, clips[0].load())
    inspection = inspect(torch.stack([first, second]), [parse_caption(caption)] * 2, PatchGrid(4, 4, 4))
    assert inspection.world is world and not inspection.defective.any()


@pytest.mark.parametrize(("source", "world"), SOURCES)
def test_other_prompts_than_captions_are_refused(source: str, world: World) -> None:
    with pytest.raises(InputError, match=rf"good\.source is '{source}': .*; name a folder of clips instead"):
        find_good_clips(GoodConfig(source=source), [Prompt("p", "a cat on a mat")], world.clip_shape, seed=0)


@pytest.mark.parametrize(("source", "world"), SOURCES)
def test_a_world_makes_good_clips_of_its_own_size_alone(source: str, world: World) -> None:
    assert source_identity(GoodConfig(source=source), world.clip_shape) == source
    frames, height, width = world.clip_shape
    words = rf"good\.source is '{source}'.* {frames} frames of {height} x {width} .* have 49 of 480 x 832"
    with pytest.raises(InputError, match=words):
        check_source(GoodConfig(source=source), (49, 480, 832))


def test_a_source_that_is_neither_a_world_nor_a_folder_is_told_both(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give 'world', 'panorama', or a folder of mp4 files"):
        check_source(GoodConfig(source=str(tmp_path / "none")), SIZE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips of a cat in another size and length, a dog's, and a file that is no video."""
    for name in ("cat0", "cat1", "cat2", "dog"):
        write_video(tmp_path / f"{name}.mp4", torch.rand(3, 20, 48, 80) * 2 - 1, 8.0)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    lines = ["video,prompt", *(f"cat{i}.mp4,a cat" for i in range(3)), "dog.mp4,a dog", "broken.mp4,a bird"]
    write_text(tmp_path / "prompts.csv", "\n".join(lines) + "\n")
    return tmp_path


def test_clips_of_a_folder_are_found_by_their_prompts_and_the_rest_is_listed(folder: Path) -> None:
    prompts = [Prompt("p0", "a bird"), Prompt("p1", "a cat")]
    clips, skipped = find_good_clips(GoodConfig(source=str(folder), per_prompt=2), prompts, SIZE, seed=0)
    assert [(clip.name, clip.prompt.prompt_id) for clip in clips] == [("good-p1-00", "p1"), ("good-p1-01", "p1")]
    assert clips[0].load().shape == (3, *SIZE)
    reasons = dict(skipped)
    assert reasons.keys() == {"dog.mp4", "broken.mp4", "p0"}
    assert "none of the run's" in reasons["dog.mp4"] and "no good clip of it" in reasons["p0"]


def test_a_folder_without_any_clip_of_the_prompts_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"holds no usable clip of any of 1 prompts; see good\.source"):
        find_good_clips(GoodConfig(source=str(folder)), [Prompt("p", "a horse")], SIZE, seed=0)


def test_the_identity_of_a_folder_is_that_of_its_bytes(folder: Path) -> None:
    before = source_identity(GoodConfig(source=str(folder)), SIZE)
    (folder / "dog.mp4").write_bytes(b"another")
    assert source_identity(GoodConfig(source=str(folder)), SIZE) != before
