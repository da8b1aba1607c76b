"""Which frames the releases on Qwen2-VL are shown, and at which size. Source: the rules of qwen-vl-utils 0.0.8."""

from __future__ import annotations

import torch
from torch import Tensor

from halovid.rewards.readers.pixels import fit_area, resize

CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{video}{question}<|im_end|>\n<|im_start|>assistant\n"
)
_UNIT = 28 * 28  # pixels of a visual token
_SMALLEST, _LARGEST, _TOTAL = 128 * _UNIT, 768 * _UNIT, 24576 * _UNIT
_FEWEST, _MOST, _PAIR = 4, 768, 2


def choose_by_rate(count: int, fps: float, wanted: float) -> list[int]:
    """Indices of an even number of frames at `wanted` frames a second, ends included; all frames of a short clip.

    At least 4 where the clip has them; a clip of one frame shows it twice.
    """
    most = min(_MOST, count) // _PAIR * _PAIR
    number = min(max(count / fps * wanted, _FEWEST), most)
    return spread(count, max(_PAIR, round(number / _PAIR) * _PAIR))


def spread(count: int, number: int) -> list[int]:
    """`number` indices from the first frame to the last at equal distances."""
    return torch.linspace(0, count - 1, number).round().long().tolist()


def frame_size(frames: Tensor, factor: int, largest: int | None) -> tuple[int, int]:
    """Height and width at which frames [n, 3, H, W] are shown; with `largest` None the whole clip has a budget."""
    budget = max(min(_LARGEST, _TOTAL / len(frames) * _PAIR), int(1.05 * _SMALLEST))
    height, width = frames.shape[-2:]
    return fit_area(height, width, factor, _SMALLEST, int(largest or budget))


def shown(frames: Tensor, factor: int, largest: int | None) -> Tensor:
    """Frames [n, 3, H, W] of bytes at the size at which they are shown."""
    return resize(frames, frame_size(frames, factor, largest), "bicubic")
