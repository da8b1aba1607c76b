"""Defective regions: which patches of a clip to make anew, by the rewards of its patches."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from halovid.maths.grid import membership


def defective_regions(
    rewards: Tensor, threshold: float, region: Literal["columns", "patches"], dilation: int
) -> list[Tensor]:
    """The defective regions of a clip, each a mask [t, h, w] of booleans; none for a clip without a defect.

    Patches that touch, also at an edge or a corner, are one region, after all have grown by `dilation`.

    Args:
        rewards: of the patches, [t, h, w].
        threshold: a patch with a reward below it is defective; a column is, by the mean of the worse half of its
            patches in time, so that one noisy reward condemns no column.
        region: "columns" reach from the first patch in time to the last.
        dilation: how many patches a region grows on each side, in space, and in time unless it is a column.
    """
    if region == "columns":
        worse_half = rewards.sort(0).values[: math.ceil(len(rewards) / 2)]
        defective = (worse_half.mean(0, keepdim=True) < threshold).expand_as(rewards).numpy()
    else:
        defective = (rewards < threshold).numpy()
    touching = np.ones((3, 3, 3), bool)
    if dilation and defective.any():  # ndimage takes 0 iterations for "until nothing changes"
        defective = ndimage.binary_dilation(defective, touching, iterations=dilation)
    labels, count = ndimage.label(defective, touching)
    return [torch.from_numpy(labels == label) for label in range(1, count + 1)]


def latent_mask(regions: Tensor, latent_shape: tuple[int, int, int]) -> Tensor:
    """The latent cells of patches, [..., T, h, w]: 1 for cells that mostly lie in a patch that is true, else 0.

    Args:
        regions: [..., t, h, w] of booleans.
    """
    shares = [membership(cells, parts) for cells, parts in zip(latent_shape, regions.shape[-3:], strict=True)]
    covered = torch.einsum("...thw,tT,hH,wW->...THW", regions.double(), *shares)
    return (covered >= 0.5).float()
