"""Clips on disk: sampled or imported once, read by every later stage.

FOLDER/clips.parquet                 one row per clip (tables.CLIPS), with the hashes of its files
FOLDER/clips/ID.mp4                  the clip as people see it
FOLDER/latents/ID.safetensors        its exact latents
FOLDER/prompts/ID.safetensors        the conditioning of its prompt, see `halovid.clips.conditions`
FOLDER/geometry.json                 how the generator's autoencoder divides a clip

A good clip (stage good) has no seed. An imported clip has no seed and no latents (null in the table), and its own
length, size and frame rate: `ClipFolder` shows it in the size that is asked for, and `encode_latents` makes latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halovid.clips.conditions import read_conditioning
from halovid.maths.grid import read_geometry
from halovid.models import DiffusionModel
from halovid.records import Conditioning, Prompt, PromptBatch
from halovid.store.checkpoint import is_readable, load_tensors, save_tensors
from halovid.store.errors import InputError
from halovid.store.files import check_file, hash_file
from halovid.store.runtime import progress
from halovid.store.tables import CLIPS, read_table
from halovid.store.video import read_video, write_video

Row = dict[str, Any]


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

    def encode_latents(self, rows: Sequence[Row], model: DiffusionModel, folder: Path) -> None:
        """Makes the latents of those rows that have none, in `folder`; `latents` then finds them.

        Raises:
            InputError: a clip can't be read, or the model takes no clips of this size.
        """
        missing = [row for row in rows if row["latents"] is None]
        if not missing:
            return
        with progress("encode clips", len(missing)) as advance:
            for row in missing:
                self.encode_latent(row, model, folder)
                advance()

    def encode_latent(self, row: Row, model: DiffusionModel, folder: Path) -> None:
        """Makes the latents of one clip that has none; as `encode_latents`."""
        if row["latents"] is None:
            path = (folder / f"{row['clip_id']}.safetensors").absolute()
            if not is_readable(path):
                save_tensors(path, {"latents": model.encode_video(self.video(row)[None])[0].float()})
            row["latents"] = str(path)

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
            conditioned: read their prompts' conditioning too, for a rewarder that needs them.
        """
        return PromptBatch.of_rows(rows, self.geometry, self.conditioning if conditioned else None)

    def conditioning(self, prompt_ids: Sequence[str]) -> Conditioning:
        """What these prompts make the model do, a row each; InputError when a file is missing or damaged."""
        return read_conditioning(self.folder, prompt_ids)
