"""Which patches of a grid a box with a time window covers, by their overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from halovid.maths.grid import LatentGeometry, PatchGrid, time_membership

# least share of the smaller of box and patch; not tuned, since no labels of both boxes and patches exist to tune it on
MIN_OVERLAP = 0.25


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
    """How far box and each patch overlap, [t, h, w] in 0..1.

    It is the larger of two shares: of the patch that lies in the box, and of the box that lies in the patch. So a small
    defect counts fully in the large patch around it.
    """
    frame_shares = time_membership(num_frames, grid.t, geometry)
    window = frame_shares[:, box.first_frame : box.last_frame + 1].sum(1)
    rows, columns = _shared_lengths(box.top, box.bottom, grid.h), _shared_lengths(box.left, box.right, grid.w)
    shared = torch.einsum("t,h,w->thw", window, rows, columns)
    patch_size = frame_shares.sum(1)[:, None, None] / (grid.h * grid.w)
    box_size = (box.last_frame - box.first_frame + 1) * (box.right - box.left) * (box.bottom - box.top)
    return (shared / patch_size.clamp(max=box_size)).clamp(max=1)


def covered_patches(box: Box, grid: PatchGrid, num_frames: int, geometry: LatentGeometry) -> Tensor:
    """The patches that a box speaks of, [t, h, w] bool: all with enough overlap, and always the one with the most."""
    share = overlap(box, grid, num_frames, geometry)
    return (share >= MIN_OVERLAP) | (share >= share.max() - 1e-9)


def touched_times(
    windows: Iterable[tuple[int, int]], grid: PatchGrid, num_frames: int, geometry: LatentGeometry
) -> list[int]:
    """The patch times, 0..t - 1, that hold a part of any frame of the windows.

    Args:
        windows: first and last frame of each, both included.
    """
    holds_frame = time_membership(num_frames, grid.t, geometry) > 0  # [t, F]
    in_window = torch.zeros(num_frames, dtype=torch.bool)
    for first, last in windows:
        in_window[first : last + 1] = True
    return torch.nonzero((holds_frame & in_window).any(1)).flatten().tolist()


def _shared_lengths(low: float, high: float, parts: int) -> Tensor:
    """The length of [low, high] that lies in each of `parts` equal parts of [0, 1], [parts]."""
    edges = torch.arange(parts + 1, dtype=torch.float64) / parts
    return (edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)).clamp(min=0)
