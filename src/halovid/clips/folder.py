"""Clip folders: clips that were sampled or imported once, and are read by later stages.

FOLDER/clips.parquet                 one row per clip (tables.CLIPS), with the hashes of its files
FOLDER/clips/ID.mp4                  the pixels of the clip, compressed; ID.png, exact, of a clip of one frame
FOLDER/latents/ID.safetensors        its exact latents
FOLDER/prompts/ID.safetensors        the conditioning of its prompt, see `halovid.clips.conditions`
FOLDER/geometry.json                 the strides of the generator's autoencoder

A good clip (stage good) has no seed. An imported clip has neither seed nor latents (null in the table), and keeps its
own length, size and frame rate: `ClipFolder` brings it to the size that is asked for, and `encode_latents` encodes it.
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
from halovid.store.video import clip_suffix, read_video, write_video

Row = dict[str, Any]


def write_clips(
    folder: Path,
    clip_ids: Sequence[str],
    prompts: Sequence[Prompt],
    seeds: Sequence[int | None],
    latents: Tensor,
    video: Tensor,
    fps: float,
) -> list[Row]:
    """Writes B clips and their latents to a clip folder, and returns their rows of tables.CLIPS.

    Args:
        latents: [B, C, T, h, w].
        video: [B, 3, F, H, W] in [-1, 1].
    """
    rows: list[Row] = []
    for clip_id, prompt, seed, latents_of_clip, clip in zip(clip_ids, prompts, seeds, latents, video, strict=True):
        clip_file, latents_file = f"clips/{clip_id}{clip_suffix(clip.shape[1])}", f"latents/{clip_id}.safetensors"
        save_tensors(folder / latents_file, {"latents": latents_of_clip.float()})
        write_video(folder / clip_file, clip, fps)
        rows.append(
            {
                "clip_id": clip_id,
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
    """Reads a clip folder.

    A generated clip must have the number of frames that is asked for. Of an imported clip that many frames are taken,
    evenly from first to last, and it is stretched to the size rather than cropped, so that every patch of it is kept.

    Args:
        size: (frames, height, width) in which `video` returns clips.
    """

    def __init__(self, folder: Path, size: tuple[int, int, int]) -> None:
        self.folder, self._size = folder, size
        self.rows: list[Row] = read_table(folder / "clips.parquet", CLIPS).to_pylist()
        self.geometry = read_geometry(folder)

    @property
    def by_prompt(self) -> dict[str, list[Row]]:
        """The rows of each prompt, in the order of the table."""
        rows_of: dict[str, list[Row]] = {}
        for row in self.rows:
            rows_of.setdefault(row["prompt_id"], []).append(row)
        return rows_of

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts, in the order of the table."""
        return [Prompt(prompt_id, rows[0]["prompt"]) for prompt_id, rows in self.by_prompt.items()]

    def video(self, row: Row) -> Tensor:
        """The pixels of a clip, [3, F, H, W] in [-1, 1].

        Raises:
            DamageError: the file is missing or not what was written.
            InputError: it can't be read, or was generated with another number of frames.
        """
        path = self.folder / row["video"]
        check_file(path, row["video_sha256"], self.folder.name)
        if row["latents"] is None:
            return read_video(path, self._size[1:], self._size[0])
        video = read_video(path, self._size[1:])
        if video.shape[1] != self._size[0]:
            raise InputError(f"{path} has {video.shape[1]} frames, the recipe's clips have {self._size[0]}")
        return video

    def readable(
        self,
        rows: Sequence[Row],
        skip: Callable[[str, str], None],
        read: Callable[[Row], Tensor] | None = None,
    ) -> tuple[list[Row], Tensor | None]:
        """The rows whose clips can be read, and these clips [B, 3, F, H, W], or None if there are none.

        `skip` is called with the id of each other clip and the reason.

        Args:
            read: gives something else of each clip, as its latents; by default its pixels.
        """
        readable_rows, clips = [], []
        for row in rows:
            try:
                clips.append((read or self.video)(row))
                readable_rows.append(row)
            except InputError as error:
                skip(row["clip_id"], str(error))
        return readable_rows, torch.stack(clips) if clips else None

    def encode_latents(self, rows: Sequence[Row], model: DiffusionModel, folder: Path) -> None:
        """Encodes the clips of those rows that have no latents, and writes the latents to `folder`.

        The rows are changed, so that `latents` finds the files. Latents that are there already are kept.

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
        """Encodes a clip if it has no latents; see `encode_latents`."""
        if row["latents"] is None:
            path = (folder / f"{row['clip_id']}.safetensors").absolute()
            if not is_readable(path):
                save_tensors(path, {"latents": model.encode_video(self.video(row)[None])[0].float()})
            row["latents"] = str(path)

    def latents(self, row: Row) -> Tensor:
        """The latents of a clip, [C, T, h, w].

        Raises:
            DamageError: the file is missing or not what was written.
            InputError: the clip was imported without latents.
        """
        if row["latents"] is None:
            raise InputError(f"the clip {row['clip_id']!r} was imported and has no latents; encode them first")
        path = self.folder / row["latents"]
        check_file(path, row["latents_sha256"], self.folder.name)
        return load_tensors(path)[0]["latents"]

    def prompt_batch(self, rows: Sequence[Row], conditioned: bool) -> PromptBatch:
        """The prompts, frame rates and strides of clips, as a rewarder takes them.

        Args:
            rows: of the clips, which may be in another folder whose prompts this one holds.
            conditioned: read the conditionings of their prompts too, for a rewarder that needs them.
        """
        return PromptBatch.of_rows(rows, self.geometry, self.conditioning if conditioned else None)

    def conditioning(self, prompt_ids: Sequence[str]) -> Conditioning:
        """The conditioning of these prompts, a row each; see `read_conditioning`."""
        return read_conditioning(self.folder, prompt_ids)
