"""Judged clips in memory: what a reward model learns from and is measured on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from halovid.clips.folder import ClipFolder, Row
from halovid.maths.grid import PatchGrid
from halovid.records import PromptBatch
from halovid.rewards.backbones import Backbone
from halovid.rewards.hidden_states import HiddenStateReader
from halovid.store.errors import InputError


@dataclass(frozen=True)
class LabelledClips:
    """n clips of m prompts with their labels.

    video: [n, 3, F, H, W] float16 in [-1, 1]; for a backbone that sees no pixels hidden states [n, D, t, h, w], and
        then a clip may be there once for each noise level.
    prompts: [m, ...], the prompts as `prompt_inputs` returns them.  prompt_of: [n], row of `prompts` for each clip.
    clip_ratings: [n, aspects].  patch_ratings: [n, patch aspects, t, h, w], NaN for patches that were not rated.
    """

    video: Tensor
    prompts: Tensor
    prompt_of: Tensor
    clip_ratings: Tensor
    patch_ratings: Tensor

    def __len__(self) -> int:
        return len(self.video)

    @property
    def rated_by_patch(self) -> bool:
        """Whether any patch is rated."""
        return not bool(self.patch_ratings.isnan().all())

    def subset(self, rows: Tensor) -> LabelledClips:
        """The clips in these rows: indices, or a boolean mask [n]."""
        return LabelledClips(
            self.video[rows], self.prompts, self.prompt_of[rows], self.clip_ratings[rows], self.patch_ratings[rows]
        )

    def mirrored(self, axes: Sequence[str], generator: torch.Generator) -> LabelledClips:
        """The clips, each mirrored with its patch ratings at random along `axes` ("horizontal", "vertical")."""
        video, ratings = self.video, self.patch_ratings
        for axis in axes:
            dim = {"horizontal": -1, "vertical": -2}[axis]
            is_mirrored = (torch.rand(len(self), generator=generator) < 0.5)[:, None, None, None, None]
            video = torch.where(is_mirrored, video.flip(dim), video)
            ratings = torch.where(is_mirrored, ratings.flip(dim), ratings)
        return dataclasses.replace(self, video=video, patch_ratings=ratings)

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The clips [n, 3, F, H, W] and a row of prompts for each, as the network takes them."""
        return self.video.float().to(device), self.prompts[self.prompt_of].to(device)


def prompt_inputs(backbone: Backbone, prompts: PromptBatch) -> Tensor:
    """The prompts of n clips as a backbone reads them: [n, L, D] float32 text states, or [n, L] token ids.

    Raises:
        ValueError: the backbone reads text states, and the prompts are not encoded.
    """
    if backbone.reads_text:
        return backbone.tokenize(list(prompts.texts))
    if prompts.conditioning is None:
        raise ValueError(f"{type(backbone).__name__} reads the diffusion model's text conditions; none were given")
    return prompts.conditioning.text_states()


def load_labelled(
    clips: ClipFolder,
    labels: pa.Table,
    aspects: Sequence[str],
    patch_aspects: Sequence[str],
    grid: PatchGrid,
    skip: Callable[[str, str], None],
    backbone: Backbone,
    reader: HiddenStateReader | None = None,
) -> tuple[LabelledClips, list[Row]]:
    """The judged clips that can be read, and their rows of the clip table; `skip` is called for the others.

    Args:
        reader: for a backbone that sees no pixels.

    Raises:
        InputError: no clip is left, or the labels lack an aspect or belong to another patch grid.
    """
    by_clip: dict[str, dict[str, Row]] = {}
    for label in labels.to_pylist():
        by_clip.setdefault(label["clip_id"], {})[label["aspect"]] = label
    judged = [row for row in clips.rows if row["clip_id"] in by_clip]
    rows, video = clips.readable(judged, skip) if reader is None else reader.read_folder(clips, judged, skip)
    if video is None:
        raise InputError(f"none of the {len(clips.rows)} clips is both judged and readable")
    clip_ratings, patch_ratings = _ratings([by_clip[row["clip_id"]] for row in rows], aspects, patch_aspects, grid)
    row_of_prompt = {row["prompt_id"]: row for row in rows}
    prompt_ids = sorted(row_of_prompt)
    prompts = clips.prompt_batch([row_of_prompt[prompt_id] for prompt_id in prompt_ids], not backbone.reads_text)
    prompt_of = torch.tensor([prompt_ids.index(row["prompt_id"]) for row in rows])
    return LabelledClips(video.half(), prompt_inputs(backbone, prompts), prompt_of, clip_ratings, patch_ratings), rows


def _ratings(
    labels: Sequence[dict[str, Row]], aspects: Sequence[str], patch_aspects: Sequence[str], grid: PatchGrid
) -> tuple[Tensor, Tensor]:
    """`clip_ratings` and `patch_ratings` of `LabelledClips`.

    Args:
        labels: for each clip, aspect -> its row of tables.LABELS.
    """
    try:
        clips = np.array([[label[aspect]["score"] for aspect in aspects] for label in labels], dtype=np.float32)
        patch_scores = [[label[aspect]["patch_scores"] for aspect in patch_aspects] for label in labels]
        if all(scores is None for of_clip in patch_scores for scores in of_clip):  # only whole clips are rated
            patch_scores = [[[np.nan] * grid.num_patches] * len(patch_aspects)] * len(labels)
        patches = np.array(patch_scores, dtype=np.float32).reshape(len(labels), len(patch_aspects), *grid.shape)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the labels do not hold aspects {list(aspects)} for clips and {list(patch_aspects)} for the patches of "
            f"grid {grid.shape} ({error}); judge again or change `reward.aspects` and `grid`"
        ) from error
    if not np.isfinite(clips).all() or np.isinf(patches).any():
        raise InputError("the labels hold ratings that are not finite; judge again")
    return torch.from_numpy(clips), torch.from_numpy(patches)
