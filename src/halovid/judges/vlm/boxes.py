"""From boxes with time windows to patches: by overlap, a pure function on the patch grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from halovid.maths.grid import LatentGeometry, PatchGrid, time_membership

MIN_OVERLAP = 0.25  # of the smaller of box and patch; not tuned, no labels of boxes and patches exist to tune it on


@dataclass(frozen=True)
class Box:
    """A part of a clip: frames, both included, and sides as shares 0..1 of the frame."""

    first_frame: int
    last_frame: int
    left: float
    top: float
    right: float
    bottom: float


def overlap(box: Box, grid: PatchGrid, num_frames: int, geometry: LatentGeometry) -> Tensor:
    """How much box and patch have in common, [t, h, w] in 0..1.

    The larger of two shares: of the patch that lies in the box, and of the box that lies in the patch. So a small
    defect in a large patch counts as fully in it.
    """
    in_time = time_membership(num_frames, grid.t, geometry)
    window = in_time[:, box.first_frame : box.last_frame + 1].sum(1)
    rows, columns = _common(box.top, box.bottom, grid.h), _common(box.left, box.right, grid.w)
    common = torch.einsum("t,h,w->thw", window, rows, columns)
    patch = in_time.sum(1)[:, None, None] / (grid.h * grid.w)
    size = (box.last_frame - box.first_frame + 1) * (box.right - box.left) * (box.bottom - box.top)
    return (common / patch.clamp(max=size)).clamp(max=1)


def covered_patches(box: Box, grid: PatchGrid, num_frames: int, geometry: LatentGeometry) -> Tensor:
    """The patches that a box speaks of, [t, h, w] bool: enough overlap, and always those with the most."""
    share = overlap(box, grid, num_frames, geometry)
    return (share >= MIN_OVERLAP) | (share >= share.max() - 1e-9)


def touched_times(
    windows: Iterable[tuple[int, int]], grid: PatchGrid, num_frames: int, geometry: LatentGeometry
) -> list[int]:
    """The places in time, 0..t - 1, of patches that show any frame of the windows (first and last frame)."""
    in_time = time_membership(num_frames, grid.t, geometry) > 0
    seen = torch.zeros(num_frames, dtype=torch.bool)
    for first, last in windows:
        seen[first : last + 1] = True
    return torch.nonzero((in_time & seen).any(1)).flatten().tolist()


def _common(low: float, high: float, parts: int) -> Tensor:
    """The length that [low, high] has in common with each of `parts` equal parts of [0, 1]."""
    bounds = torch.arange(parts + 1, dtype=torch.float64) / parts
    return (bounds[1:].clamp(max=high) - bounds[:-1].clamp(min=low)).clamp(min=0)
