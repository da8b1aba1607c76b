"""Tiny clips of different lengths, sizes and rates, made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from halovid.video import write_video

SHAPES = [(9, 256, 256, 8.0), (13, 256, 272, 10.0), (30, 288, 256, 24.0), (8, 256, 256, 8.0)]


@pytest.fixture(scope="session")
def clip_pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Some clips, all longer than or as long as a second but for none of them equal."""
    folder, paths = tmp_path_factory.mktemp("pool"), []
    for number, (frames, height, width, fps) in enumerate(SHAPES):
        ramp = torch.linspace(-1, 1, frames).view(1, -1, 1, 1) * (1 - 0.3 * number)
        path = folder / f"{number}.mp4"
        write_video(path, ramp.expand(3, -1, height, width), fps)
        paths.append(path)
    return paths


@pytest.fixture
def put(clip_pool: list[Path]) -> Callable[..., Path]:
    """Copies a clip of the pool to a path."""

    def copy(path: Path, number: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip_pool[number % len(clip_pool)], path)
        return path

    return copy
