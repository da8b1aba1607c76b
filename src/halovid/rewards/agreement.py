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
    """Rows of tables.AGREEMENT: how well ratings of clips and of patches agree with the labels, aspect by aspect.

    The last row (scope "scales") tells whether clips and patches are rated on one scale: how well the mean rating of a
    clip's patches agrees with the clip's own rating in the same aspects.

    Args:
        scoring: how patches are rated, a key of `scoring.SCORERS`.
        threshold: a patch labelled below it is defective; AUROC tells how well ratings single these out.
    """
    clip_ratings, patch_ratings = rate(network, data, scoring, grid, batch_size)
    clip_labels, patch_labels = data.clip_ratings.numpy(), data.patch_ratings.numpy()
    rows = []
    for k, aspect in enumerate(network.spec.aspects):
        rows.append(_row("clip", scoring, aspect, clip_ratings[:, k], clip_labels[:, k], None))
    for k, aspect in enumerate(network.spec.patch_aspects if data.rated_by_patch else ()):
        rows.append(_row("patch", scoring, aspect, patch_ratings[:, k], patch_labels[:, k], threshold))
    mean_of_patches = patch_ratings.mean((1, 2, 3, 4))
    mean_of_clip = clip_ratings[:, network.patch_rows].mean(1)  # over the aspects that patches are rated in
    rows.append(_row("scales", scoring, "mean", mean_of_patches, mean_of_clip, None))
    return rows


def rate(
    network: RewardNetwork, data: LabelledClips, scoring: str, grid: PatchGrid, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The network's ratings of clips [n, aspects] and of their patches [n, patch aspects, t, h, w]."""
    clip_ratings, patch_ratings = [], []
    for rows in torch.arange(len(data)).split(batch_size):
        of_clips, of_patches = rate_clips(network, *data.subset(rows).inputs(network.shift.device), grid, scoring)
        clip_ratings.append(of_clips.float().cpu())
        patch_ratings.append(of_patches.float().cpu())
    return torch.cat(clip_ratings).numpy(), torch.cat(patch_ratings).numpy()


def _row(
    scope: str, scoring: str, aspect: str, scores: np.ndarray, truth: np.ndarray, threshold: float | None
) -> dict[str, Any]:
    """The row of n clips or patches, without those whose `truth` is NaN; AUROC is NaN without a threshold."""
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
