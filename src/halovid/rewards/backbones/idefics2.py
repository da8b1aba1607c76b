"""Idefics2 as a backbone; it may start from VideoScore's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from halovid.rewards.backbones.base import LanguageSpec
from halovid.rewards.backbones.language import QUESTION, LanguageBackbone
from halovid.rewards.readers import idefics2
from halovid.rewards.readers.text import fill


class Idefics2Backbone(LanguageBackbone):
    """Idefics2, whose visual tokens have no place in the picture: each is a mixture of all patches of its frame.

    A cell is a patch of the vision tower. Its feature is the mean of the visual tokens' states, weighted by how much
    each attends to the patch, plus a linear projection of the tower's own feature of the patch. The projection starts
    at zero, so cells begin on the scale of the model's states and then learn what the mixtures lose.
    """

    _reader: idefics2.Idefics2Reader
    kinds = idefics2.KINDS
    resampling = "bilinear"

    def __init__(self, spec: LanguageSpec) -> None:
        super().__init__(spec)
        self._reader = idefics2.Idefics2Reader(self.model, self._tokenizer)
        self._glances = idefics2.Glances(self.model)
        patch = self._reader.patch
        self._grid = (spec.frames, spec.input_height // patch, spec.input_width // patch)
        self.local = nn.Linear(self.model.config.vision_config.hidden_size, spec.width)
        nn.init.zeros_(self.local.weight)
        nn.init.zeros_(self.local.bias)

    @staticmethod
    def plan(config: Any, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Frames, height and width to show, for so many frames and a grid of rows x columns patches."""
        side = config.vision_config.patch_size
        return frames, rows * side, columns * side

    def template(self) -> str:
        """The conversation, with `{prompt}` where the prompt goes; VideoScore's own when it is its weights."""
        frames = f"{self._reader.frame_text()} " * self.spec.frames
        if self.start.question:
            return fill(self.start.question, video=frames)
        return fill(idefics2.CHAT, question=fill(QUESTION, video=frames))

    def cells(self, visual: Tensor) -> Tensor:
        """The features of the patches, [B, T', h', w', D], see the class, from the visual tokens' states [B, n, D]."""
        states = visual.unflatten(1, (self.spec.frames, -1))
        attention = self._glances.weights.unflatten(0, states.shape[:2]).to(states)
        shares = attention / attention.sum(2, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
        projected = self.local(self._glances.patches.float()).unflatten(0, states.shape[:2])
        return (torch.einsum("bnkp,bnkd->bnpd", shares, states) + projected).unflatten(2, self._grid[1:])
