"""Defective regions: which parts of a clip to make anew, by the rewards of its patches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from halovid.maths.grid import PatchGrid


def defective_regions(rewards: Tensor, threshold: float, regions: PatchGrid, dilation: int) -> list[Tensor]:
    """The defective regions of a clip, each a mask [t, h, w] of booleans; none for a clip without a defect.

    Within a region each column of patches in time counts by the mean of its worse half, so that one noisy reward
    condemns nothing; the region is defective if its worst column is below the threshold.

    Args:
        rewards: of the patches, [t, h, w].
        threshold: lower rewards are defective.
        regions: a division of the clip, at most as fine as the patches.
        dilation: by how many patches a defective region grows on each side; regions may then overlap.
    """
    touching = np.ones((3, 3, 3), bool)
    masks = []
    for mask in _masks(regions, rewards.shape):
        columns = rewards[mask.any(2).any(1)][:, mask.any(2).any(0)][:, :, mask.any(1).any(0)]
        worse_half = columns.sort(0).values[: math.ceil(len(columns) / 2)]
        if worse_half.mean(0).min() < threshold:
            grown = ndimage.binary_dilation(mask.numpy(), touching, iterations=dilation) if dilation else mask.numpy()
            masks.append(torch.from_numpy(grown))
    return masks


def _masks(regions: PatchGrid, shape: Sequence[int]) -> list[Tensor]:
    """The patches of each region, [t, h, w] of booleans: those whose centre lies in it."""
    t, h, w = (_part_of(patches, parts) for patches, parts in zip(shape, regions.shape, strict=True))
    indices = itertools.product(*map(range, regions.shape))
    return [(t == i)[:, None, None] & (h == j)[:, None] & (w == k) for i, j, k in indices]


def latent_mask(regions: Tensor, latent_shape: Sequence[int]) -> Tensor:
    """The latent cells of patches, [..., T, h, w]: 1 for cells whose centre lies in a patch that is true, else 0.

    Args:
        regions: [..., t, h, w] of booleans.
        latent_shape: (T, h, w).
    """
    t, h, w = (_part_of(cells, parts) for cells, parts in zip(latent_shape, regions.shape[-3:], strict=True))
    return regions[..., t[:, None, None], h[:, None], w].float()


def _part_of(num_cells: int, num_parts: int) -> Tensor:
    """In which of equal parts of an axis the centre of each of its cells lies, [num_cells]."""
    return (2 * torch.arange(num_cells) + 1) * num_parts // (2 * num_cells)
