"""Model-free measures of a clip: pixels in, one number per clip out.

They need no network and no download, so they cross-check the learned rewards. None of them is quality by
itself: a still image flickers least, so read them together with `dynamic_degree`.

Every `video` is [..., 3, F, H, W], floating point in [-1, 1]; the result has the leading shape, is float32
(float64 for a float64 video), and lies on the video's device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SSIM_WINDOW = 11  # pixels; with sigma 1.5 the window of Wang et al. 2004
_SSIM_SIGMA = 1.5
_SSIM_FLOORS = (0.01**2, 0.03**2)  # stabilising constants of Wang et al. 2004 for intensities in 0..1

# The settings of the flow were chosen on clean and corrupted clips of the embedded world (motion error,
# separation of the two by the warp error) and on moving patterns; intensities are in 0..1 there.
_SMOOTHNESS = 0.02  # weight of the flow's smoothness against squared intensity gradients
_STILLNESS = 3e-5  # weight that pulls the flow to zero where the picture is plain
_OUTLIER = 0.03  # intensity error above which a pixel counts less, as it may be uncovered background
_WARPS = 2  # linearisations at each pyramid level
_SWEEPS = 10  # Jacobi sweeps for each linearisation at full size
_COARSE_SWEEPS = 30  # the same below full size, where they are cheap and reach further
_COARSEST = 20  # pixels: a frame whose shorter side is at least this has a coarser level below it
_CHUNK = 2**20  # pixels of the frame pairs treated at a time: bounds the memory to a few hundred MB

_FASTEST = 0.05  # share of a frame's flow vectors that counts for the dynamic degree, as in VBench
_DIVERSITY_POOL = 4  # pixels


def temporal_flickering(video: Tensor) -> Tensor:
    """VBench's temporal flickering: (255 - MAE of adjacent frames on the scale 0..255) / 255.

    VBench measures only clips that its RAFT flow calls static, and rounds frames to 8 bits; this does neither, so true
    motion lowers it too. Compare only clips that move alike.

    Args:
        video: [..., 3, F, H, W] in [-1, 1], F >= 2.

    Returns:
        [...] in 0..1, 1 for a still clip; higher is steadier.

    Raises:
        ValueError: the video is not as above.

    Source: Huang et al. 2024 (VBench, arXiv 2311.17982), `vbench/temporal_flickering.py`.
    """
    frames = _frames(video)
    change = (frames[..., 1:, :, :, :] - frames[..., :-1, :, :, :]).abs()
    return 1 - change.mean((-4, -3, -2, -1))


def ssim_stability(video: Tensor) -> Tensor:
    """Mean structural similarity (SSIM) of adjacent frames.

    Gaussian window of 11 pixels and sigma 1.5, per colour channel, without the 5 pixels at each border where
    the window does not fit. True motion lowers it, like `temporal_flickering`.

    Args:
        video: [..., 3, F, H, W] in [-1, 1], F >= 2, H and W >= 11.

    Returns:
        [...] in -1..1, 1 for a still clip; higher is steadier.

    Raises:
        ValueError: the video is not as above.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity",
        eq. 13.
    """
    frames = _frames(video, min_side=_SSIM_WINDOW)
    values = [_ssim(before, after) for before, after in _chunks(*_pairs(frames))]
    return _per_clip(torch.cat(values), frames)


def estimate_flow(video: Tensor) -> Tensor:
    """The dense optical flow from each frame to the one before it.

    A robust Horn-Schunck flow: least squares of brightness constancy in all three colours plus smoothness,
    solved by Jacobi sweeps, coarse to fine, the earlier frame warped at each step. Pixels that no small
    motion explains count less. It follows coarse structure over a tenth of the shorter side per frame, fine
    texture over half its wavelength; plain surfaces take the motion of their surroundings, and contrast below
    about 1% of the range is taken for still. It is no match for a learned flow, but needs no weights.

    Args:
        video: [..., 3, F, H, W] in [-1, 1], F >= 2, H and W >= 2.

    Returns:
        [..., F - 1, 2, H, W] in pixels, (x, y): pixel p of frame k + 1 was at p + flow[k] in frame k. An
        object that moves right therefore has a negative x.

    Raises:
        ValueError: the video is not as above.

    Source: Horn & Schunck 1981; warping and robust data term after Brox et al. 2004.
    """
    frames = _frames(video)
    flow = _flow(*_pairs(frames))
    return flow.reshape(*frames.shape[:-4], -1, *flow.shape[1:])


def flow_warp_error(video: Tensor, flow: Tensor | None = None) -> Tensor:
    """Mean squared difference of each frame from the previous one, moved along the estimated flow.

    Unlike `temporal_flickering` it does not count motion: what is left is flicker, sudden change, and newly uncovered
    background. Pixels that come from outside the frame are left out; pixels that were hidden are
    not: a mask from the flow's own consistency would also hide the defects.

    Args:
        video: [..., 3, F, H, W] in [-1, 1], F >= 2, H and W >= 2.
        flow: `estimate_flow` of the video, to save computing it again.

    Returns:
        [...] squared intensity on the scale 0..1, 0 for a still clip; lower is better.

    Raises:
        ValueError: the video is not as above.

    Source: the warping error of Lai et al. 2018 (arXiv 1808.00449), eq. 8, with the flow of `estimate_flow`
        and without their occlusion mask.
    """
    frames = _frames(video)
    previous, current = _pairs(frames)
    motion = _flow(previous, current) if flow is None else flow.flatten(end_dim=-4)
    error = (current - _warp(previous, motion)).square().mean(1)
    inside = _inside(motion)
    return _per_clip((error * inside).sum((1, 2)) / inside.sum((1, 2)), frames)


def dynamic_degree(video: Tensor, flow: Tensor | None = None) -> Tensor:
    """Mean length of the longest 5% of the flow vectors of each frame.

    Not VBench's dynamic degree, which thresholds the same mean of a RAFT flow and reports a share of clips;
    like it, this ranks clips by how much moves. A cut or heavy noise also reads as motion.

    Args:
        video: [..., 3, F, H, W] in [-1, 1], F >= 2, H and W >= 2.
        flow: `estimate_flow` of the video, to save computing it again.

    Returns:
        [...] pixels per frame, 0 for a still clip.

    Raises:
        ValueError: the video is not as above.
    """
    frames = _frames(video)
    motion = _flow(*_pairs(frames)) if flow is None else flow.flatten(end_dim=-4)
    speed = torch.linalg.vector_norm(motion, dim=1).flatten(1)
    fastest = speed.topk(math.ceil(_FASTEST * speed.shape[1]), dim=1).values
    return _per_clip(fastest.mean(1), frames)


def diversity(videos: Tensor) -> Tensor:
    """How far each sample of a prompt is from the others: root mean square difference, averaged over them.

    Frames are first averaged over 4 x 4 pixels, because grain, flicker and texture that differ by chance are
    no diversity, while another layout, colour or motion survives the averaging. A rest of up to 3 pixels at
    the right and bottom is left out.

    Args:
        videos: [S, 3, F, H, W] in [-1, 1], S >= 2 samples of one prompt, H and W >= 4.

    Returns:
        [S] on the video's own scale: 0 all alike, 2 one sample black and one white. Their mean is that of all pairs.

    Raises:
        ValueError: the videos are not as above.
    """
    if videos.ndim != 5 or len(videos) < 2:
        shape = tuple(videos.shape)
        raise ValueError(f"videos have shape {shape}; diversity needs [S, 3, F, H, W] with S >= 2 samples")
    frames = _frames(videos, min_side=_DIVERSITY_POOL, min_frames=1)
    pooled = F.avg_pool2d(frames.flatten(0, 1), _DIVERSITY_POOL).reshape(len(videos), -1)
    distance = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")  # alike is exactly 0
    return 2 * distance.sum(1) / (len(videos) - 1) / math.sqrt(pooled.shape[1])


def diversity_of_groups(videos: Tensor, groups: Sequence[str]) -> Tensor:
    """`diversity` of each video among those of its own group, [B]; NaN for one that is alone in its group.

    Args:
        videos: [B, 3, F, H, W] in [-1, 1].
        groups: the group of each video, such as the id of its prompt.
    """
    values = torch.full((len(groups),), math.nan)
    for group in dict.fromkeys(groups):
        is_member = torch.tensor([name == group for name in groups])
        if is_member.sum() > 1:
            values[is_member] = diversity(videos[is_member])
    return values


def _frames(video: Tensor, min_side: int = 2, min_frames: int = 2) -> Tensor:
    """The checked video as frames [..., F, 3, H, W] in [0, 1], at least float32."""
    shape = tuple(video.shape)
    if len(shape) < 4 or shape[-4] != 3:
        raise ValueError(f"video has shape {shape}; this measure needs [..., 3, F, H, W]")
    if not video.is_floating_point():
        raise ValueError(f"video has dtype {video.dtype}; this measure needs floating point in [-1, 1]")
    if shape[-3] < min_frames or min(shape[-2:]) < min_side:
        raise ValueError(
            f"video has {shape[-3]} frames of {shape[-2]} x {shape[-1]} pixels; "
            f"this measure needs at least {min_frames} of {min_side} x {min_side}"
        )
    exact = video.to(torch.promote_types(video.dtype, torch.float32))
    return (exact.transpose(-4, -3) + 1) / 2


def _pairs(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Each frame but the last, and the one after it: twice [N, 3, H, W]."""
    clips = frames.reshape(-1, *frames.shape[-4:])
    return clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)


def _per_clip(values: Tensor, frames: Tensor) -> Tensor:
    """The mean over each clip of one value per frame pair."""
    return values.reshape(*frames.shape[:-4], -1).mean(-1)


def _chunks(previous: Tensor, current: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Frame pairs [N, 3, H, W] in chunks of at most `_CHUNK` pixels, but at least one pair."""
    step = max(1, _CHUNK // (previous.shape[-2] * previous.shape[-1]))
    for start in range(0, len(previous), step):
        yield previous[start : start + step], current[start : start + step]


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean SSIM of pairs of images, [N, 3, H, W] in [0, 1] -> [N]."""
    offsets = torch.arange(_SSIM_WINDOW, dtype=first.dtype, device=first.device) - _SSIM_WINDOW // 2
    window = torch.softmax(-offsets.square() / (2 * _SSIM_SIGMA**2), dim=0)

    def blur(images: Tensor) -> Tensor:
        planes = F.conv2d(images.flatten(0, 1)[:, None], window[None, None, None])
        return F.conv2d(planes, window[None, None, :, None])

    mean_first, mean_second = blur(first), blur(second)
    variances = blur(first.square() + second.square()) - mean_first.square() - mean_second.square()
    covariance = blur(first * second) - mean_first * mean_second
    luminance_floor, contrast_floor = _SSIM_FLOORS
    similarity = (2 * mean_first * mean_second + luminance_floor) * (2 * covariance + contrast_floor)
    scale = mean_first.square() + mean_second.square() + luminance_floor
    return (similarity / (scale * (variances + contrast_floor))).reshape(len(first), -1).mean(1)


def _flow(previous: Tensor, current: Tensor) -> Tensor:
    """Where each pixel of `current` was in `previous`: [N, 3, H, W] in [0, 1] -> [N, 2, H, W] pixels."""
    return torch.cat([_coarse_to_fine(before, after) for before, after in _chunks(previous, current)])


def _coarse_to_fine(previous: Tensor, current: Tensor) -> Tensor:
    """The flow of one chunk, from the top of an image pyramid down."""
    pyramid = [(previous, current)]
    while min(pyramid[-1][0].shape[-2:]) >= _COARSEST:
        before, after = pyramid[-1]
        pyramid.append((_halve(before), _halve(after)))
    flow = torch.zeros_like(pyramid[-1][0][:, :2])
    for before, after in reversed(pyramid):
        if flow.shape[-2:] != after.shape[-2:]:
            flow = 2 * F.interpolate(flow, size=after.shape[-2:], mode="bilinear")
        sweeps = _SWEEPS if after is current else _COARSE_SWEEPS
        for _ in range(_WARPS):
            flow = _refine(flow, before, after, sweeps)
    return flow


def _halve(images: Tensor) -> Tensor:
    """Images of half the size; smoothed first, or fine texture would turn into false coarse motion."""
    return F.avg_pool2d(_smooth(images), 2, ceil_mode=True, count_include_pad=False)


def _refine(flow: Tensor, previous: Tensor, current: Tensor, sweeps: int) -> Tensor:
    """The flow after one linearisation: minimises data, smoothness and stillness terms by a 2 x 2 system per pixel."""
    warped = _warp(previous, flow)
    error = current - warped
    down, right = torch.gradient((current + warped) / 2, dim=(-2, -1))
    trust = _inside(flow) * (1 + error.square().sum(1) / _OUTLIER**2).rsqrt()
    xx, xy, yy = (trust * (a * b).sum(1) for a, b in ((right, right), (right, down), (down, down)))
    pull_x = trust * (right * error).sum(1) + xx * flow[:, 0] + xy * flow[:, 1]
    pull_y = trust * (down * error).sum(1) + xy * flow[:, 0] + yy * flow[:, 1]
    pull = torch.stack([pull_x, pull_y], dim=1)
    xx, yy = xx + _SMOOTHNESS + _STILLNESS, yy + _SMOOTHNESS + _STILLNESS
    determinant = xx * yy - xy.square()
    diagonal = torch.stack([yy, xx], dim=1) / determinant[:, None]
    mixed = (-xy / determinant)[:, None]
    for _ in range(sweeps):
        right_side = pull + _SMOOTHNESS * _smooth(flow)
        flow = diagonal * right_side + mixed * right_side.flip(1)
    return flow


def _smooth(images: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels. Sums of slices: 13 times as fast on a CPU as average pooling."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def _positions(flow: Tensor) -> Tensor:
    """Where the flow of each pixel ends: [N, 2, H, W], (x, y), -1 .. 1 from edge to edge of the frame."""
    height, width = flow.shape[-2:]
    y = torch.arange(height, device=flow.device)[:, None].expand(height, width)
    x = torch.arange(width, device=flow.device).expand(height, width)
    size = flow.new_tensor([width, height])[:, None, None]
    return 2 * (flow + torch.stack([x, y]) + 0.5) / size - 1


def _inside(flow: Tensor) -> Tensor:
    """Whether the flow of each pixel ends inside the frame: [N, 2, H, W] -> [N, H, W]."""
    return (_positions(flow).abs() <= 1).all(1)


def _warp(images: Tensor, flow: Tensor) -> Tensor:
    """Images [N, C, H, W] read where the flow [N, 2, H, W] ends, bilinear, borders continued."""
    grid = _positions(flow).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
