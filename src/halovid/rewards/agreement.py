"""How well a reward model agrees with ratings it was not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from halovid.maths import statistics
from halovid.maths.grid import PatchGrid
from halovid.rewards.data import LabelledClips
from halovid.rewards.network import RewardNetwork
from halovid.rewards.scoring import rate_clips


def agreement_rows(
    network: RewardNetwork, data: LabelledClips, scoring: str, grid: PatchGrid, threshold: float, batch_size: int
) -> list[dict[str, Any]]:
    """Rows of tables.AGREEMENT: how ratings of clips and of patches agree with the labels, aspect by aspect.

    The last row tells whether clips and patches are rated on one scale: how a clip's rating agrees with its patches'.

    Args:
        threshold: a patch rated below it counts as defective; what AUROC separates.
    """
    clip, patches = rate(network, data, scoring, grid, batch_size)
    truth_clip, truth_patches = data.clip_ratings.numpy(), data.patch_ratings.numpy()
    rows = []
    for k, aspect in enumerate(network.spec.aspects):
        rows.append(_row("clip", scoring, aspect, clip[:, k], truth_clip[:, k], None))
    for k, aspect in enumerate(network.spec.patch_aspects if data.rated_by_patch else ()):
        rows.append(_row("patch", scoring, aspect, patches[:, k], truth_patches[:, k], threshold))
    by_patch = clip[:, network.patch_rows]  # the same aspects on the scale of clips
    rows.append(_row("scales", scoring, "mean", patches.mean((1, 2, 3, 4)), by_patch.mean(1), None))
    return rows


def rate(
    network: RewardNetwork, data: LabelledClips, scoring: str, grid: PatchGrid, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ratings of clips [n, aspects] and patches [n, patch aspects, t, h, w]."""
    clip, patches = [], []
    for rows in torch.arange(len(data)).split(batch_size):
        ratings = rate_clips(network, *data.subset(rows).inputs(network.shift.device), grid, scoring)
        clip.append(ratings[0].float().cpu())
        patches.append(ratings[1].float().cpu())
    return torch.cat(clip).numpy(), torch.cat(patches).numpy()


def _row(
    scope: str, scoring: str, aspect: str, scores: np.ndarray, truth: np.ndarray, threshold: float | None
) -> dict[str, Any]:
    """A row over all items whose truth is known; its AUROC tells how well low scores single out defective patches."""
    known = ~np.isnan(truth)
    scores, truth = scores[known], truth[known]
    auroc = float("nan") if threshold is None else statistics.auroc(-scores, truth < threshold)
    return {
        "scope": scope,
        "scoring": scoring,
        "aspect": aspect,
        "spearman": statistics.spearman(scores, truth),
        "kendall": statistics.kendall(scores, truth),
        "auroc": auroc,
        "count": len(scores),
    }
