"""Clips on disk: sampled or imported once, read by every later stage.

FOLDER/clips.parquet                 one row per clip (tables.CLIPS), with the hashes of its files
FOLDER/clips/ID.mp4                  the clip as people see it
FOLDER/latents/ID.safetensors        its exact latents
FOLDER/prompts/ID.safetensors        the text condition of its prompt
FOLDER/geometry.json                 how the generator's autoencoder divides a clip

A good clip (stage good) has no seed. An imported clip has no seed and no latents (null in the table), and its own
length, size and frame rate: `ClipFolder` shows it in the size that is asked for, and `encode_latents` makes latents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.maths.grid import read_geometry
from halovid.maths.seeds import clip_seed
from halovid.models import Generator, Sampler
from halovid.records import Prompt, PromptBatch
from halovid.store.checkpoint import load_tensors, save_tensors
from halovid.store.errors import DamageError, InputError
from halovid.store.files import check_file, hash_file, write_json
from halovid.store.folders import StageFolder
from halovid.store.runtime import progress
from halovid.store.tables import CLIPS, read_table
from halovid.store.video import read_video, write_video

Row = dict[str, Any]
Draw = Callable[[PromptBatch, list[int]], Tensor]  # prompts and a seed for each -> latents of a clip of each


def sample_clips(
    stage: StageFolder,
    sampler: Sampler,
    config: GeneratorConfig,
    prompts: Sequence[Prompt],
    seed: int,
    per_prompt: int,
    description: str,
    draw: Draw | None = None,
) -> None:
    """Samples `per_prompt` clips of every prompt into the stage's folder, with their table; continues after a kill.

    Args:
        draw: how a batch of clips is sampled, where that is not the plain `sampler.sample`.
    """
    folder = stage.path
    save_conditions(folder, sampler, prompts)

    def sample(batch: Sequence[tuple[Prompt, int]]) -> list[Row]:
        seeds = [clip_seed(seed, prompt.prompt_id, index) for prompt, index in batch]
        texts = tuple(prompt.text for prompt, _ in batch)
        conditioning = sampler.encode_prompts(list(texts))
        if draw is None:
            latents = sampler.sample(conditioning, seeds)
        else:
            latents = draw(PromptBatch(texts, conditioning, (config.fps,) * len(texts), sampler.geometry), seeds)
        names = [f"{prompt.prompt_id}-{index:02d}" for prompt, index in batch]
        owners = [prompt for prompt, _ in batch]
        return write_clips(folder, names, owners, seeds, latents, sampler.decode_video(latents), config.fps)

    jobs = [(prompt, index) for prompt in prompts for index in range(per_prompt)]
    stage.write("clips.parquet", stage.map_batches(description, jobs, config.batch_size, sample, CLIPS))


def save_conditions(folder: Path, sampler: Sampler, prompts: Sequence[Prompt]) -> None:
    """Writes what a clip folder holds beside its clips: the geometry and the text condition of each prompt."""
    write_json(folder / "geometry.json", dataclasses.asdict(sampler.geometry))
    for prompt in prompts:
        path = _condition_path(folder, prompt.prompt_id)
        if not _is_readable(path):
            save_tensors(path, {"prompt_embeds": sampler.encode_prompts([prompt.text])[0]})


def write_clips(
    folder: Path,
    names: Sequence[str],
    prompts: Sequence[Prompt],
    seeds: Sequence[int | None],
    latents: Tensor,
    video: Tensor,
    fps: float,
) -> list[Row]:
    """Writes clips and their latents; their rows of tables.CLIPS."""
    rows: list[Row] = []
    for name, prompt, seed, latent, clip in zip(names, prompts, seeds, latents, video, strict=True):
        clip_file, latents_file = f"clips/{name}.mp4", f"latents/{name}.safetensors"
        save_tensors(folder / latents_file, {"latents": latent.float()})
        write_video(folder / clip_file, clip, fps)
        rows.append(
            {
                "clip_id": name,
                "prompt_id": prompt.prompt_id,
                "prompt": prompt.text,
                "seed": seed,
                "fps": fps,
                "video": clip_file,
                "video_sha256": hash_file(folder / clip_file),
                "latents": latents_file,
                "latents_sha256": hash_file(folder / latents_file),
            }
        )
    return rows


class ClipFolder:
    """Reads a clip folder; clips come as `size` says: frames, height, width.

    Of a generated clip the frames are as many as the recipe says; an imported one is shown from its first frame to
    its last, and stretched where its sides are in another proportion, so that every patch of it is seen.
    """

    def __init__(self, folder: Path, size: tuple[int, int, int]) -> None:
        self.folder, self._size = folder, size
        self.rows: list[Row] = read_table(folder / "clips.parquet", CLIPS).to_pylist()
        self.geometry = read_geometry(folder)

    @property
    def by_prompt(self) -> dict[str, list[Row]]:
        """The rows of each prompt, in the order of the table."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["prompt_id"], []).append(row)
        return found

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts, in the order of the table."""
        return [Prompt(name, rows[0]["prompt"]) for name, rows in self.by_prompt.items()]

    def video(self, row: Row) -> Tensor:
        """The pixels of a clip.

        Returns:
            [3, F, H, W] in [-1, 1].

        Raises:
            DamageError: the file is missing or not what was written.
            InputError: it can't be read, or was generated with other frames.
        """
        path = self.folder / row["video"]
        check_file(path, row["video_sha256"], self.folder.name)
        if row["latents"] is None:
            return read_video(path, self._size[1:], self._size[0])
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

    def encode_latents(self, rows: Sequence[Row], generator: Generator, folder: Path) -> None:
        """Makes the latents of those rows that have none, in `folder`; `latents` then finds them.

        Raises:
            InputError: a clip can't be read, or the generator takes no clips of this size.
        """
        missing = [row for row in rows if row["latents"] is None]
        if not missing:
            return
        with progress("encode clips", len(missing)) as advance:
            for row in missing:
                path = (folder / f"{row['clip_id']}.safetensors").absolute()
                if not _is_readable(path):
                    save_tensors(path, {"latents": generator.encode_video(self.video(row)[None])[0].float()})
                row["latents"] = str(path)
                advance()

    def latents(self, row: Row) -> Tensor:
        """[C, T, h, w]; DamageError when the file is missing or not what was written."""
        if row["latents"] is None:
            raise InputError(f"the clip {row['clip_id']!r} was imported and has no latents; encode them first")
        path = self.folder / row["latents"]
        check_file(path, row["latents_sha256"], self.folder.name)
        return load_tensors(path)[0]["latents"]

    def prompt_batch(self, rows: Sequence[Row], conditioned: bool) -> PromptBatch:
        """What a rewarder is told of the clips in `rows`, which may be those of another folder with these prompts.

        Args:
            conditioned: read their prompts' text conditions too, for a rewarder that needs them.
        """
        return PromptBatch.of_rows(rows, self.geometry, self.prompt_embeds if conditioned else None)

    def prompt_embeds(self, prompt_id: str) -> Tensor:
        """[L, D]."""
        path = _condition_path(self.folder, prompt_id)
        if not path.parent.exists() and (self.folder / "sources.parquet").exists():
            raise InputError(
                f"the prompts of the clips imported into {self.folder} are not encoded; import them again with --recipe"
            )
        if not _is_readable(path):
            raise DamageError(path, self.folder.name)
        return load_tensors(path)[0]["prompt_embeds"]


def _condition_path(folder: Path, prompt_id: str) -> Path:
    return folder / "prompts" / f"{prompt_id}.safetensors"


def _is_readable(path: Path) -> bool:
    """Whether a file of tensors is there and undamaged."""
    try:
        load_tensors(path)
    except InputError:
        return False
    return True
