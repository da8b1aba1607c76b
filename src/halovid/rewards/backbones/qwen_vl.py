"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halovid.rewards.backbones.base import LanguageSpec
from halovid.rewards.backbones.language import QUESTION, LanguageBackbone
from halovid.rewards.readers import qwen
from halovid.rewards.readers.text import fill


class QwenVLBackbone(LanguageBackbone):
    """Visual tokens lie on a grid already: pairs of frames, squares of 28 or 32 pixels."""

    _reader: qwen.QwenReader
    kinds = qwen.KINDS

    def __init__(self, spec: LanguageSpec) -> None:
        super().__init__(spec)
        frame_seconds = (spec.num_frames + spec.lead) / spec.frames / spec.fps
        self._reader = qwen.QwenReader(self.model, self._tokenizer, self.start.sequential, frame_seconds)
        self._grid = self._reader.grid(spec.frames, spec.input_height, spec.input_width)

    @staticmethod
    def plan(config: Any, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Frames, height and width to show, for so many frames and a grid of rows x columns tokens."""
        vision = config.vision_config
        side = vision.patch_size * vision.spatial_merge_size
        together = vision.temporal_patch_size
        return -(-frames // together) * together, rows * side, columns * side

    def template(self) -> str:
        """The conversation, with `{prompt}` where the prompt goes."""
        video = self._reader.visual_text(self._grid, self.seconds)
        return fill(qwen.CHAT, question=fill(self.start.question or QUESTION, video=video))

    def cells(self, visual: Tensor) -> Tensor:
        """[B, T', h', w', D] of the visual tokens' states."""
        return visual.unflatten(1, self._grid)
