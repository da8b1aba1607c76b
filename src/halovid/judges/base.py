"""The contract of a judge: whatever rates clips and their patches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import Judgement, Refusal, Request, Rounds


class Judge(Protocol):
    """Rates clips.

    name: judge, version and settings in one text, which goes into every label and the stage's fingerprint.
    """

    name: str

    def judge(self, requests: Sequence[Request], geometry: LatentGeometry) -> list[Judgement | Refusal]:
        """One answer per request, in their order; the same clip always gets the same answer.

        Args:
            geometry: how the generator divides time: which frames lie in which patches.
        """


def make_requests(
    rows: Sequence[Mapping[str, Any]], video: Tensor, planned: Mapping[str, Rounds] | None = None
) -> list[Request]:
    """One request per clip.

    Args:
        rows: of tables.CLIPS, one per clip.
        video: the clips, [B, 3, F, H, W].
        planned: clip id -> the patches to ask about, in rounds; None: all patches of every clip.
    """
    return [
        Request(clip, row["prompt"], row["clip_id"], planned[row["clip_id"]] if planned is not None else None)
        for clip, row in zip(video, rows, strict=True)
    ]


def asked_rounds(request: Request, grid: PatchGrid) -> Rounds:
    """The patches that a request asks about, all of them in one round if it does not say."""
    return [list(range(grid.num_patches))] if request.rounds is None else request.rounds


def only_asked(answer: Judgement, rounds: Rounds) -> Judgement:
    """The judgement without ratings of patches that were not asked about: these become NaN."""
    asked = torch.tensor([patch for patches in rounds for patch in patches], dtype=torch.long)
    kept_patches = {}
    for aspect, ratings in answer.patches.items():
        kept = torch.full_like(ratings, torch.nan)
        kept.view(-1)[asked] = ratings.reshape(-1)[asked]
        kept_patches[aspect] = kept
    return replace(answer, patches=kept_patches)


def label_rows(clip_id: str, answer: Judgement, judge: str) -> list[dict[str, Any]]:
    """Rows of tables.LABELS, one per aspect of a clip; patches without a rating are null."""
    return [
        {
            "clip_id": clip_id,
            "aspect": aspect,
            "score": score,
            "patch_scores": _nan_to_none(answer.patches[aspect]) if aspect in answer.patches else None,
            "judge": judge,
        }
        for aspect, score in answer.clip.items()
    ]


def _nan_to_none(ratings: Tensor) -> list[float | None]:
    return [None if math.isnan(rating) else rating for rating in ratings.flatten().tolist()]


def vote_rows(clip_id: str, answer: Judgement) -> list[dict[str, Any]]:
    """Rows of tables.VOTES, one per opinion that the ratings of a clip are means of."""
    return [{"clip_id": clip_id} | asdict(vote) for vote in answer.votes]
