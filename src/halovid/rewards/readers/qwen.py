"""How Qwen2-VL, Qwen2.5-VL and Qwen3-VL are shown a clip."""

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
    """Shows clips to a Qwen model.

    visual: id of the tokens that stand for a clip.  patch: side of the vision tower's patches in pixels.
    merge: patches along a side of a visual token.  factor: pixels along it.  together: frames that share a token.

    Args:
        model: the transformer without its head.
        tokenizer: must have the token that stands for a clip.
        sequential: number positions one after the other instead of by time, row and column: the released reward models
            of this family were trained so.
        frame_seconds: how long each frame is shown; Qwen2.5-VL's positions in time are in seconds.
    """

    def __init__(self, model: Any, tokenizer: Any, sequential: bool = False, frame_seconds: float = 0.5) -> None:
        self._model, self._sequential, self._frame_seconds = model, sequential, frame_seconds
        config = model.config
        self.visual = token_id(tokenizer, "<|video_pad|>", config.video_token_id)
        self.merge: int = config.vision_config.spatial_merge_size
        self.together: int = config.vision_config.temporal_patch_size
        self.patch: int = config.vision_config.patch_size
        self.factor = self.patch * self.merge
        self._has_positions_in_seconds = config.model_type == "qwen2_5_vl"
        self._has_times_in_text = config.model_type == "qwen3_vl"
        self._statistics = _HALF if self._has_times_in_text else _CLIP

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The grid (T', h', w') of the visual tokens of so many frames of height x width pixels."""
        return frames // self.together, height // self.factor, width // self.factor

    def visual_text(self, grid: tuple[int, int, int], seconds: list[float]) -> str:
        """The text that stands for a clip; for Qwen3-VL with the times of its frames.

        Args:
            grid: (T', h', w') of the visual tokens.
            seconds: when each frame is shown.
        """
        times, rows, columns = grid
        tokens = "<|video_pad|>" * (rows * columns)
        if not self._has_times_in_text:
            return f"<|vision_start|>{tokens * times}<|vision_end|>"
        first_and_last = zip(seconds[:: self.together], seconds[self.together - 1 :: self.together], strict=True)
        return "".join(
            f"<{(first + last) / 2:.1f} seconds><|vision_start|>{tokens}<|vision_end|>"
            for first, last in first_and_last
        )

    def read(self, ids: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        """The hidden states [B, L, D] of token ids [B, L] with frames [B, n, 3, H, W] of bytes.

        H and W must be multiples of `factor`.
        """
        count, _, height, width = frames.shape[1:]
        pixels = cut_into_patches(normalise(frames, *self._statistics), self.patch, self.merge, self.together)
        patch_grid = [count // self.together, height // self.patch, width // self.patch]
        visual = (ids == self.visual) & mask
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, len(ids), -1)
        position_options = {"position_ids": positions} if self._sequential else {"mm_token_type_ids": 2 * visual.long()}
        if self._has_positions_in_seconds:
            position_options["second_per_grid_ts"] = torch.full((len(ids),), self.together * self._frame_seconds)
        output = self._model(
            input_ids=ids,
            attention_mask=mask.long(),
            pixel_values_videos=pixels.to(self._model.dtype),
            video_grid_thw=torch.tensor([patch_grid] * len(ids), device=ids.device),
            use_cache=False,
            **position_options,
        )
        return output.last_hidden_state
