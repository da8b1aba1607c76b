"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halovid.rewards.readers.pixels import cut_into_patches, normalise
from halovid.rewards.readers.text import token_id

KINDS = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
CHAT = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class QwenReader:
    """Shows a Qwen model clips.

    Args:
        model: the transformer without its head.
        tokenizer: which must have the token that stands for a clip.
        sequential: number the tokens one after the other instead of by time, row and column, as the released reward
            models of this family were trained.
        frame_seconds: how long each frame is shown; Qwen2.5-VL's positions in time are those of a clock.
    """

    def __init__(self, model: Any, tokenizer: Any, sequential: bool = False, frame_seconds: float = 0.5) -> None:
        self._model, self._sequential, self._frame_seconds = model, sequential, frame_seconds
        config = model.config
        self.visual = token_id(tokenizer, "<|video_pad|>", config.video_token_id)
        self.merge: int = config.vision_config.spatial_merge_size
        self.together: int = config.vision_config.temporal_patch_size
        self.patch: int = config.vision_config.patch_size
        self.factor = self.patch * self.merge
        self._clocked = config.model_type == "qwen2_5_vl"
        self._told_time = config.model_type == "qwen3_vl"
        self._statistics = _HALF if self._told_time else _CLIP

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(T', h', w') of the visual tokens of so many frames of so many pixels."""
        return frames // self.together, height // self.factor, width // self.factor

    def visual_text(self, grid: tuple[int, int, int], seconds: list[float]) -> str:
        """The text that stands for a clip. Qwen3-VL is told when its frames are shown, `seconds` each."""
        cells, rows, columns = grid
        tokens = "<|video_pad|>" * (rows * columns)
        if not self._told_time:
            return f"<|vision_start|>{tokens * cells}<|vision_end|>"
        ends = zip(seconds[:: self.together], seconds[self.together - 1 :: self.together], strict=True)
        return "".join(
            f"<{(first + last) / 2:.1f} seconds><|vision_start|>{tokens}<|vision_end|>" for first, last in ends
        )

    def read(self, ids: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        """Hidden states [B, L, D] of token ids [B, L] with frames [B, n, 3, H, W] of bytes, multiples of `factor`."""
        count, _, height, width = frames.shape[1:]
        pixels = cut_into_patches(normalise(frames, *self._statistics), self.patch, self.merge, self.together)
        size = [count // self.together, height // self.patch, width // self.patch]
        visual = (ids == self.visual) & mask
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, len(ids), -1)
        order = {"position_ids": positions} if self._sequential else {"mm_token_type_ids": 2 * visual.long()}
        if self._clocked:
            order["second_per_grid_ts"] = torch.full((len(ids),), self.together * self._frame_seconds)
        output = self._model(
            input_ids=ids,
            attention_mask=mask.long(),
            pixel_values_videos=pixels.to(self._model.dtype),
            video_grid_thw=torch.tensor([size] * len(ids), device=ids.device),
            use_cache=False,
            **order,
        )
        return output.last_hidden_state
