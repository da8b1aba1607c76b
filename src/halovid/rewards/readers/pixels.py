"""Pre-processing of pictures for pretrained models, in torch alone: sizes, resizing, normalising, cutting up.

It gives what the processors of transformers give (tests compare), without torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def to_bytes(video: Tensor) -> Tensor:
    """Pixels in [-1, 1] as bytes, as a video file holds them; any shape."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def resize(pictures: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Pictures [..., 3, H, W] of bytes at another size, antialiased, as bytes.

    Args:
        mode: bilinear or bicubic.
    """
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    flat = pictures.flatten(0, -4)
    if pictures.device.type == "cpu":  # on bytes, as torchvision and Pillow do it
        resized = F.interpolate(flat, size=size, mode=mode, antialias=True)
    else:
        resized = F.interpolate(flat.float(), size=size, mode=mode, antialias=True).round().clamp(0, 255).byte()
    return resized.unflatten(0, pictures.shape[:-3])


def normalise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(pixel / 255 - mean) / std per channel of [..., 3, H, W] bytes, float32."""
    shift = torch.tensor(mean, device=pictures.device).view(3, 1, 1)
    scale = torch.tensor(std, device=pictures.device).view(3, 1, 1)
    return (pictures.float() / 255 - shift) / scale


def fit_area(height: int, width: int, factor: int, smallest: int, largest: int) -> tuple[int, int]:
    """Height and width near the given ones, multiples of `factor`, whose product lies in smallest .. largest pixels.

    The aspect ratio is kept as well as the multiples allow. Source: Qwen2-VL's rule for pictures.
    """
    rows, columns = (max(factor, round(side / factor) * factor) for side in (height, width))
    if rows * columns > largest:
        shrink = math.sqrt(height * width / largest)
        rows, columns = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    elif rows * columns < smallest:
        grow = math.sqrt(smallest / (height * width))
        rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return rows, columns


def fit_edges(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Height and width with the longer side at most `longest` and the shorter at least `shortest` pixels.

    Source: Idefics2's rule for pictures; the aspect ratio is given up for very long pictures.
    """
    ratio = width / height
    if width >= height and width > longest:
        height, width = int(longest / ratio), longest
    elif height > width and height > longest:
        height, width = longest, int(longest * ratio)
    return max(height, shortest), max(width, shortest)


def cut_into_patches(pictures: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Frames [B, n, 3, H, W] as the flat patches that Qwen's vision towers take.

    Returns:
        [B * n/frames * H/patch * W/patch, 3 * frames * patch * patch]; patches that are merged into one token,
        merge x merge of them, follow each other.
    """
    batch, count, channels, height, width = pictures.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    parts = pictures.reshape(batch, count // frames, frames, channels, rows, merge, patch, columns, merge, patch)
    ordered = parts.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return ordered.reshape(-1, channels * frames * patch * patch)
