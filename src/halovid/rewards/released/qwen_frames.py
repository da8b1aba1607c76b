"""How the releases on Qwen2-VL are shown a clip: which frames, at which size, in which conversation.

Source: the rules of qwen-vl-utils 0.0.8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halovid.rewards.readers.pixels import fit_area, resize
from halovid.rewards.readers.qwen import QwenReader
from halovid.rewards.readers.text import fill, token_rows, without_pad

CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{video}{question}<|im_end|>\n<|im_start|>assistant\n"
)
_UNIT = 28 * 28  # pixels of a visual token
_MIN_PIXELS, _MAX_PIXELS = 128 * _UNIT, 768 * _UNIT  # of a frame
_MAX_CLIP_PIXELS = 24576 * _UNIT  # of all frames
_MIN_FRAMES, _MAX_FRAMES, _PAIR = 4, 768, 2  # frames go in pairs


def choose_by_rate(count: int, fps: float, sampling_fps: float) -> list[int]:
    """The indices of an even number of frames, `sampling_fps` a second, the first and last frame included.

    They are at least 4, or all frames of a shorter clip; a clip of one frame shows it twice.
    """
    limit = min(_MAX_FRAMES, count) // _PAIR * _PAIR
    number = min(max(count / fps * sampling_fps, _MIN_FRAMES), limit)
    return spread(count, max(_PAIR, round(number / _PAIR) * _PAIR))


def spread(count: int, number: int) -> list[int]:
    """`number` indices from the first frame to the last at equal distances."""
    return torch.linspace(0, count - 1, number).round().long().tolist()


def frame_size(frames: Tensor, factor: int, largest: int | None) -> tuple[int, int]:
    """The height and width at which frames [n, 3, H, W] are shown.

    Args:
        factor: height and width are multiples of it.
        largest: the most pixels of a frame; None divides a budget for the whole clip among its frames.
    """
    budget = max(min(_MAX_PIXELS, _MAX_CLIP_PIXELS / len(frames) * _PAIR), int(1.05 * _MIN_PIXELS))
    height, width = frames.shape[-2:]
    return fit_area(height, width, factor, _MIN_PIXELS, int(largest or budget))


def read_clip(
    reader: QwenReader, tokenizer: Any, frames: Tensor, largest: int | None, question: str, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The token ids [1, L], the mask [1, L] and the hidden states [1, L, D] of a question about a clip.

    Args:
        frames: [n, 3, H, W] of bytes; they are resized by `frame_size`.
        device: that of the reader's model.
    """
    frames = resize(frames, frame_size(frames, reader.factor, largest), "bicubic")
    grid = reader.grid(len(frames), *frames.shape[-2:])
    text = fill(CHAT, video=reader.visual_text(grid, []), question=question)
    ids, mask = without_pad(token_rows(tokenizer, [text]).to(device), reader.visual)
    return ids, mask, reader.read(ids, mask, frames[None].to(device))
