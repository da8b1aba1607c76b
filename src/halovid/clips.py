"""Clips on disk: sampled once, read by every later stage.

FOLDER/clips.parquet                 one row per clip (tables.CLIPS)
FOLDER/clips/ID.mp4                  the clip as people see it
FOLDER/latents/ID.safetensors        its exact latents
FOLDER/prompts/ID.safetensors        the text condition of its prompt
FOLDER/geometry.json                 how the generator's autoencoder divides a clip
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from halovid.config import GeneratorConfig
from halovid.errors import InputError
from halovid.files import atomic_path, write_json
from halovid.folders import StageFolder
from halovid.generators import Generator
from halovid.grid import read_geometry
from halovid.prompts import Prompt
from halovid.tables import CLIPS, read_table
from halovid.video import read_video, write_video

Row = dict[str, Any]


def clip_seed(seed: int, prompt_id: str, index: int) -> int:
    """The seed of a prompt's index-th clip: a function of its arguments alone, in 0..2**63 - 1."""
    digest = hashlib.sha256(f"{seed}/{prompt_id}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sample_clips(
    stage: StageFolder,
    folder: Path,
    generator: Generator,
    config: GeneratorConfig,
    prompts: Sequence[Prompt],
    seed: int,
    per_prompt: int,
    description: str,
) -> pa.Table:
    """Samples `per_prompt` clips of every prompt into `folder`, continuing after a kill; their table."""
    write_json(folder / "geometry.json", dataclasses.asdict(generator.geometry))
    for prompt in prompts:
        path = _condition_path(folder, prompt.prompt_id)
        if not path.exists():
            _save_tensor(path, "prompt_embeds", generator.encode_prompts([prompt.text])[0])

    def sample(batch: Sequence[tuple[Prompt, int]]) -> list[Row]:
        seeds = [clip_seed(seed, prompt.prompt_id, index) for prompt, index in batch]
        latents = generator.sample(generator.encode_prompts([prompt.text for prompt, _ in batch]), seeds)
        rows = [_clip_row(prompt, index, own, config.fps) for (prompt, index), own in zip(batch, seeds, strict=True)]
        for row, latent, video in zip(rows, latents, generator.decode_video(latents), strict=True):
            _save_tensor(folder / row["latents"], "latents", latent.float())
            write_video(folder / row["video"], video, config.fps)
        return rows

    jobs = [(prompt, index) for prompt in prompts for index in range(per_prompt)]
    return stage.map_batches(description, jobs, config.batch_size, sample, CLIPS)


class ClipFolder:
    """Reads what `sample_clips` wrote; clips come as `size` says: frames, height, width."""

    def __init__(self, folder: Path, size: tuple[int, int, int]) -> None:
        self.folder, self._size = folder, size
        self.rows: list[Row] = read_table(folder / "clips.parquet", CLIPS).to_pylist()
        self.geometry = read_geometry(folder)

    def video(self, row: Row) -> Tensor:
        """[3, F, H, W] in [-1, 1]; InputError when the file can't be read or has another number of frames."""
        path = self.folder / row["video"]
        video = read_video(path, self._size[1:])
        if video.shape[1] != self._size[0]:
            raise InputError(f"{path} has {video.shape[1]} frames, the recipe's clips have {self._size[0]}")
        return video

    def readable(self, rows: Sequence[Row], skip: Callable[[str, str], None]) -> tuple[list[Row], Tensor | None]:
        """The rows whose clips can be read and these clips, [B, 3, F, H, W]; `skip` is told of the others."""
        kept, videos = [], []
        for row in rows:
            try:
                videos.append(self.video(row))
                kept.append(row)
            except InputError as error:
                skip(row["clip_id"], str(error))
        return kept, torch.stack(videos) if videos else None

    def latents(self, row: Row) -> Tensor:
        """[C, T, h, w]."""
        return _load_tensor(self.folder / row["latents"], "latents")

    def prompt_embeds(self, prompt_id: str) -> Tensor:
        """[L, D]."""
        return _load_tensor(_condition_path(self.folder, prompt_id), "prompt_embeds")


def _clip_row(prompt: Prompt, index: int, seed: int, fps: float) -> Row:
    clip_id = f"{prompt.prompt_id}-{index:02d}"
    files = {"video": f"clips/{clip_id}.mp4", "latents": f"latents/{clip_id}.safetensors"}
    return {"clip_id": clip_id, "prompt_id": prompt.prompt_id, "prompt": prompt.text, "seed": seed, "fps": fps, **files}


def _condition_path(folder: Path, prompt_id: str) -> Path:
    return folder / "prompts" / f"{prompt_id}.safetensors"


def _save_tensor(path: Path, name: str, value: Tensor) -> None:
    with atomic_path(path) as temporary:
        save_file({name: value.cpu().contiguous()}, temporary)


def _load_tensor(path: Path, name: str) -> Tensor:
    try:
        return load_file(path)[name]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(
            f"{path} is missing or damaged ({error}); delete the manifest.json of its stage and run that again"
        ) from error
