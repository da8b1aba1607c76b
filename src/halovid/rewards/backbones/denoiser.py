"""Heads on the generator's own hidden states: a clip is rated by what the denoiser knows of it, without decoding."""

from __future__ import annotations

from torch import Tensor, nn

from halovid.rewards.backbones.base import Backbone, DenoiserSpec, Features
from halovid.rewards.backbones.conv import Residual


class DenoiserProbe(Backbone):
    """A few residual convolutions over hidden states, which the denoiser has computed with the prompt in view."""

    sees_pixels = False

    def __init__(self, spec: DenoiserSpec) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.states)
        self.projection = nn.Linear(spec.states, spec.width)
        self.layers = nn.Sequential(*[Residual(spec.width) for _ in range(spec.layers)])

    def forward(self, states: Tensor, prompts: Tensor) -> Features:
        """Features of hidden states [B, D, T', h', w']; the clip's vector is the mean of its cells'."""
        cells = self.projection(self.norm(states.movedim(1, -1)))
        cells = self.layers(cells.movedim(-1, 1)).movedim(1, -1)
        return Features(cells, cells.mean((1, 2, 3)))
