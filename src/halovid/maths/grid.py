"""Geometry of the patch grid: pixels <-> latent cells <-> patches.

A clip is divided three times along each axis: into frames and pixels, into latent cells, into patches. A
membership matrix [parts, cells] says which share of each cell lies in each part; its columns sum to one, so
every division is a partition of the clip. Sizes need not divide: a cell on a border belongs to both sides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from halovid.store.errors import InputError
from halovid.store.troubles import raise_shortage

MOST_PARTS, MOST_PATCHES = 1024, 100_000  # along an axis, and in all; far more than any judge is asked about


@dataclass(frozen=True)
class PatchGrid:
    """A division of a clip into t x h x w patches."""

    t: Annotated[int, Field(description="patches along time")]
    h: Annotated[int, Field(description="patches from top to bottom")]
    w: Annotated[int, Field(description="patches from left to right")]

    def __post_init__(self) -> None:
        if min(self.t, self.h, self.w) < 1:
            raise ValueError(f"a patch grid needs at least one patch along each axis, got {self.shape}")
        if max(self.shape) > MOST_PARTS or self.num_patches > MOST_PATCHES:
            raise ValueError(f"a patch grid has at most {MOST_PARTS} parts along an axis and {MOST_PATCHES:,} patches")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(t, h, w)."""
        return self.t, self.h, self.w

    @property
    def num_patches(self) -> int:
        """t * h * w."""
        return self.t * self.h * self.w


@dataclass(frozen=True)
class LatentGeometry:
    """How a video autoencoder maps pixels to latent cells.

    With `causal_first_frame` the first frame has a latent frame of its own (Wan, CogVideoX, HunyuanVideo):
    1 + k * temporal_stride frames give 1 + k latent frames.
    """

    temporal_stride: int
    spatial_stride: int
    causal_first_frame: bool

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(T, h, w) of a clip's latents.

        Raises:
            InputError: the autoencoder can't divide clips of this size into whole latent cells.
        """
        lead = 1 if self.causal_first_frame else 0
        if min(num_frames, height, width) < 1:
            raise InputError(f"a clip needs at least one frame and pixel, got {num_frames} x {height} x {width}")
        if (num_frames - lead) % self.temporal_stride:
            rule = f"{self.temporal_stride} * k + {lead}" if lead else f"a multiple of {self.temporal_stride}"
            raise InputError(f"num_frames is {num_frames}; this generator needs {rule}")
        if height % self.spatial_stride or width % self.spatial_stride:
            raise InputError(f"height x width is {height} x {width}; both must be multiples of {self.spatial_stride}")
        frames = lead + (num_frames - lead) // self.temporal_stride
        return frames, height // self.spatial_stride, width // self.spatial_stride

    def frame_membership(self, num_frames: int) -> Tensor:
        """Which latent frame each frame belongs to: [T, F] of zeros and ones."""
        frames = torch.arange(num_frames)
        stride = self.temporal_stride
        latent_frame = (frames + stride - 1) // stride if self.causal_first_frame else frames // stride
        return (latent_frame[None] == torch.arange(int(latent_frame[-1]) + 1)[:, None]).double()


def read_geometry(folder: Path) -> LatentGeometry:
    """How the generator of a clip folder divides its clips, from the folder's geometry.json.

    Raises:
        InputError: that file is missing or damaged.
    """
    try:
        return LatentGeometry(**json.loads((folder / "geometry.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise_shortage(error)
        raise InputError(
            f"{folder}/geometry.json is missing or damaged ({error}); run the stage that writes it again"
        ) from error


def membership(num_cells: int, num_parts: int) -> Tensor:
    """Share of each of `num_cells` equal cells that lies in each of `num_parts` equal parts: [parts, cells].

    Columns sum to one.
    """
    cell_edges = torch.arange(num_cells + 1, dtype=torch.float64) / num_cells
    part_edges = torch.arange(num_parts + 1, dtype=torch.float64) / num_parts
    low = torch.maximum(cell_edges[None, :-1], part_edges[:-1, None])
    high = torch.minimum(cell_edges[None, 1:], part_edges[1:, None])
    return (high - low).clamp(min=0) * num_cells


def time_membership(num_frames: int, num_parts: int, geometry: LatentGeometry) -> Tensor:
    """Share of each frame that lies in each of `num_parts` equal parts of a clip's latent frames: [parts, F].

    Columns sum to one.
    """
    frames = geometry.frame_membership(num_frames)
    return membership(len(frames), num_parts) @ frames


def pool_cells(cells: Tensor, grid: PatchGrid) -> Tensor:
    """The mean of each patch.

    Args:
        cells: [..., T, h, w], one value per latent cell.

    Returns:
        [..., grid.t, grid.h, grid.w].
    """
    return _pool(cells, [membership(size, parts) for size, parts in zip(cells.shape[-3:], grid.shape, strict=True)])


def pool_pixels(pixels: Tensor, grid: PatchGrid, geometry: LatentGeometry) -> Tensor:
    """The mean of each patch over pixels, along the same borders and with the same weights as `pool_cells`.

    Every latent frame counts alike: where the first has a single pixel frame, that one weighs as much as the four of
    the next.

    Args:
        pixels: [..., F, H, W], one value per pixel.

    Returns:
        [..., grid.t, grid.h, grid.w].
    """
    num_frames, height, width = pixels.shape[-3:]
    frames = geometry.frame_membership(num_frames)
    frame_shares = membership(len(frames), grid.t) @ (frames / frames.sum(1, keepdim=True))
    return _pool(pixels, [frame_shares, membership(height, grid.h), membership(width, grid.w)])


def spread_to_frames(patches: Tensor, num_frames: int, geometry: LatentGeometry) -> Tensor:
    """The patch values at the time of each frame: [..., t, h, w] -> [..., F, h, w].

    A frame on a border between two patches gets their mean by its share in each.
    """
    frame_shares = time_membership(num_frames, patches.shape[-3], geometry)
    return torch.einsum("...thw,tf->...fhw", patches, frame_shares.to(patches))


def _pool(values: Tensor, memberships: list[Tensor]) -> Tensor:
    """Means along the last three axes, weighted by a membership matrix for each, in floating point."""
    values = values if values.is_floating_point() else values.float()
    weights = [(shares / shares.sum(1, keepdim=True)).to(values) for shares in memberships]
    return torch.einsum("...fyx,tf,hy,wx->...thw", values, *weights)
