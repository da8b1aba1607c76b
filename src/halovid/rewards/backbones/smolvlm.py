"""SmolVLM2."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halovid.rewards.backbones.base import LanguageSpec
from halovid.rewards.backbones.language import QUESTION, LanguageBackbone
from halovid.rewards.readers import smolvlm
from halovid.rewards.readers.text import fill


class SmolVLMBackbone(LanguageBackbone):
    """Every frame is a square of its own with as many tokens as the model was trained with; the square covers it."""

    _reader: smolvlm.SmolVLMReader
    kinds = smolvlm.KINDS

    def __init__(self, spec: LanguageSpec) -> None:
        super().__init__(spec)
        self._reader = smolvlm.SmolVLMReader(self.model, self._tokenizer)
        self._grid = (spec.frames, self._reader.cells, self._reader.cells)

    @staticmethod
    def plan(config: Any, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Frames, height and width to show: the model's own size, whatever grid is wished for."""
        side = config.vision_config.image_size
        return frames, side, side

    def template(self) -> str:
        """The conversation, with `{prompt}` where the prompt goes."""
        video = self._reader.visual_text(self.seconds)
        return fill(smolvlm.CHAT, question=fill(QUESTION, video=f"{video}\n\n"))

    def cells(self, visual: Tensor) -> Tensor:
        """[B, T', h', w', D] of the visual tokens' states."""
        return visual.unflatten(1, self._grid)
