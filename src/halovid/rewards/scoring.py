"""Two ways to rate patches with a reward network: `dense`, one pass for all of them, and `crop`, a pass for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from halovid.maths.grid import LatentGeometry, PatchGrid, membership
from halovid.rewards.network import RewardNetwork
from halovid.store.runtime import batches

_CROPS_AT_ONCE = 64
_CROP_BYTES = 1 << 29  # the most that the crops of one pass may take


def score_dense(network: RewardNetwork, video: Tensor, prompts: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """Ratings of clips [B, aspects] and patches [B, patch aspects, t, h, w] from one pass."""
    features = network.features(video, prompts)
    return network.rate_videos(features), network.rate_patches(features, grid)


def score_crop(network: RewardNetwork, video: Tensor, prompts: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """As `score_dense`, but in 1 + P passes for a clip of P patches: each patch is cropped and rated as a clip.

    Source: the HALO paper, arXiv 2502.06812.
    """
    ratings, _ = score_dense(network, video, prompts, grid)
    geometry, crop_ratings = geometry_of(network), []
    batch_size = max(1, min(_CROPS_AT_ONCE, _CROP_BYTES // video[0].nbytes))
    patches_of_clips = list(itertools.product(range(len(video)), range(grid.num_patches)))
    for batch in batches(patches_of_clips, batch_size):
        crops = torch.cat([crop_patches(video[clip], grid, geometry, only=patch) for clip, patch in batch])
        features = network.features(crops, prompts[[clip for clip, _ in batch]])
        crop_ratings.append(network.rate_videos(features)[:, network.patch_rows])
    patch_ratings = torch.cat(crop_ratings).unflatten(0, (len(video), *grid.shape))
    return ratings, patch_ratings.movedim(-1, 1)


Scorer = Callable[[RewardNetwork, Tensor, Tensor, PatchGrid], tuple[Tensor, Tensor]]
SCORERS: dict[str, Scorer] = {"dense": score_dense, "crop": score_crop}


@torch.no_grad()
def rate_clips(
    network: RewardNetwork, video: Tensor, prompts: Tensor, grid: PatchGrid, scoring: str
) -> tuple[Tensor, Tensor]:
    """Ratings of clips [B, aspects] and of their patches [B, patch aspects, t, h, w].

    Args:
        video: [B, 3, F, H, W] in [-1, 1], whose frames are resized to the network's size; for a backbone that sees no
            pixels hidden states [B, D, t, h, w].
        prompts: as `data.prompt_inputs` returns them.
        scoring: a key of SCORERS.
    """
    spec = network.spec.backbone
    if network.backbone.sees_pixels and video.shape[-2:] != (spec.frame_height, spec.frame_width):
        video = F.interpolate(video, (video.shape[2], spec.frame_height, spec.frame_width), mode="area")
    return SCORERS[scoring](network, video, prompts, grid)


def geometry_of(network: RewardNetwork) -> LatentGeometry:
    """The strides in time of the diffusion model that the network was built for: they decide where patches lie."""
    spec = network.spec.backbone
    return LatentGeometry(spec.temporal_stride, 1, spec.causal_first_frame)


def crop_patches(video: Tensor, grid: PatchGrid, geometry: LatentGeometry, only: int | None = None) -> Tensor:
    """Patches of a clip [3, F, H, W] as clips of the same size: [t * h * w, 3, F, H, W].

    A patch takes the frames and pixels that lie at least half inside it, enlarged in space, nearest in time.

    Args:
        only: crop this patch alone, by its index into the flattened [t, h, w]; None crops all.
    """
    num_frames, height, width = video.shape[1:]
    frames = geometry.frame_membership(num_frames)
    spans = itertools.product(
        _spans(membership(len(frames), grid.t) @ frames),
        _spans(membership(height, grid.h)),
        _spans(membership(width, grid.w)),
    )
    crops = []
    for index, (t, y, x) in enumerate(spans):
        if only is None or index == only:
            times = torch.linspace(t.start, t.stop - 1, num_frames).round().long()
            frames = video[:, times, y, x].transpose(0, 1)
            crop = F.interpolate(frames, size=(height, width), mode="bilinear", align_corners=False)
            crops.append(crop.transpose(0, 1))
    return torch.stack(crops)


def _spans(shares: Tensor) -> list[slice]:
    """For each part of an axis, the cells that lie at least half inside it; if there are none, the fullest ones.

    Args:
        shares: [parts, cells], how much of each cell lies inside each part, in 0..1.
    """
    spans = []
    for shares_of_cells in shares:
        threshold = min(0.5, float(shares_of_cells.max()))
        cells = torch.nonzero(shares_of_cells >= threshold)[:, 0]
        spans.append(slice(int(cells[0]), int(cells[-1]) + 1))
    return spans
