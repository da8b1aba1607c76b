"""Clips on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import with_hashes
from halovid.clips.folder import ClipFolder
from halovid.maths.seeds import clip_seed
from halovid.store.errors import DamageError, InputError
from halovid.store.tables import CLIPS, rows_to_table, write_table
from halovid.store.video import write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips: one of 5 frames of 16 x 16, one that is no video, one of 4 frames."""
    rows = [
        {
            "clip_id": name,
            "prompt_id": "p",
            "prompt": "a prompt",
            "seed": 0,
            "fps": 8.0,
            "video": f"clips/{name}.mp4",
            "latents": f"latents/{name}.safetensors",
        }
        for name in ("short", "broken", "whole")
    ]
    geometry = {"temporal_stride": 4, "spatial_stride": 8, "causal_first_frame": True}
    (tmp_path / "geometry.json").write_text(json.dumps(geometry))
    write_video(tmp_path / "clips/whole.mp4", torch.zeros(3, 5, 16, 16), 8.0)
    write_video(tmp_path / "clips/short.mp4", torch.zeros(3, 4, 16, 16), 8.0)
    (tmp_path / "clips/broken.mp4").write_bytes(b"no video")
    rows = [with_hashes(tmp_path, row) for row in rows]
    write_table(tmp_path / "clips.parquet", rows_to_table(rows, CLIPS))
    return tmp_path


def test_clips_that_cannot_be_used_are_told_and_the_rest_is_kept(folder: Path) -> None:
    clips, skipped = ClipFolder(folder, (5, 16, 16)), dict[str, str]()
    rows, video = clips.readable(clips.rows, skipped.__setitem__)
    assert [row["clip_id"] for row in rows] == ["whole"]
    assert video is not None and video.shape == (1, 3, 5, 16, 16)
    assert "has 4 frames, the recipe's clips have 5" in skipped["short"]
    assert "not a readable video" in skipped["broken"]


def test_no_usable_clip_at_all_is_no_video(folder: Path) -> None:
    clips, skipped = ClipFolder(folder, (9, 16, 16)), dict[str, str]()
    assert clips.readable(clips.rows, skipped.__setitem__) == ([], None)
    assert skipped.keys() == {"short", "broken", "whole"}


def test_clips_come_in_the_size_that_is_asked_for(folder: Path) -> None:
    clips = ClipFolder(folder, (5, 8, 4))
    row = next(row for row in clips.rows if row["clip_id"] == "whole")
    assert clips.video(row).shape == (3, 5, 8, 4)


@pytest.mark.parametrize("content", [None, "no json", '{"temporal_stride": 4}', "[]"])
def test_a_damaged_geometry_is_one_sentence(folder: Path, content: str | None) -> None:
    (folder / "geometry.json").unlink()
    if content is not None:
        (folder / "geometry.json").write_text(content)
    with pytest.raises(InputError, match=r"geometry\.json is missing or damaged"):
        ClipFolder(folder, (5, 16, 16))


def test_missing_latents_name_the_file_and_what_to_do(folder: Path) -> None:
    clips = ClipFolder(folder, (5, 16, 16))
    with pytest.raises(DamageError, match=r"short\.safetensors is missing or not what the stage .* run `halovid"):
        clips.latents(clips.rows[0])


def test_seeds_depend_on_every_argument_and_nothing_else() -> None:
    seeds = {clip_seed(seed, prompt, index) for seed in range(3) for prompt in ("a", "b") for index in range(3)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert clip_seed(1, "a", 2) == clip_seed(1, "a", 2)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes() + b"x"), Path.unlink])
def test_a_damaged_clip_is_never_left_out_in_silence(folder: Path, damage: Callable[[Path], None]) -> None:
    clips = ClipFolder(folder, (5, 16, 16))
    damage(folder / "clips/whole.mp4")
    with pytest.raises(DamageError, match=r"whole\.mp4 is missing or not what the stage .* wrote"):
        clips.readable(clips.rows, lambda *_: None)
