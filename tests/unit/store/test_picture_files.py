"""Clips of one frame as PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from halovid.store.errors import InputError
from halovid.store.video import clip_suffix, probe_video, read_facts, read_pictures, read_video, write_video


def random_picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_clip(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[:, None] / 127.5 - 1


def test_one_frame_is_a_picture_and_several_are_a_video() -> None:
    assert [clip_suffix(frames) for frames in (1, 2, 81)] == [".png", ".mp4", ".mp4"]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (32, 48), (300, 257)])
def test_nothing_is_lost(height: int, width: int, tmp_path: Path) -> None:
    path, picture = tmp_path / "a.png", random_picture(height, width)
    write_video(path, as_clip(picture), 8.0)
    [read] = read_pictures(path)
    assert np.array_equal(read, picture)
    torch.testing.assert_close(read_video(path), as_clip(picture), rtol=0, atol=1e-6)
    facts = read_facts(path)
    assert (facts.num_frames, facts.height, facts.width) == (1, height, width)
    assert probe_video(path) == facts


def test_equal_pictures_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_video(tmp_path / name, as_clip(random_picture(20, 30)), 8.0)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_is_read_at_other_sizes_and_lengths(tmp_path: Path) -> None:
    write_video(tmp_path / "a.png", as_clip(random_picture(8, 12)), 8.0)
    assert read_video(tmp_path / "a.png", (4, 6), num_frames=1).shape == (3, 1, 4, 6)


def test_several_frames_are_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unpack"):
        write_video(tmp_path / "a.png", torch.zeros(3, 2, 8, 8), 8.0)
    assert not list(tmp_path.iterdir())


def test_a_damaged_picture_is_an_input_error(tmp_path: Path) -> None:
    write_video(tmp_path / "a.png", as_clip(random_picture(64, 64)), 8.0)
    content = (tmp_path / "a.png").read_bytes()
    for damaged in (b"", content[:20], b"no picture"):
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(InputError):
            read_video(tmp_path / "a.png")
