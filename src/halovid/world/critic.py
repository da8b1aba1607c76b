"""The packaged critic: a small convolutional network that names the corruption in each patch.

It is the independent reward model of the embedded world: other architecture, other data (rendered scenes, never a
generated clip), other seeds than anything that alignment sees. It does not read the caption.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from halovid.maths.grid import PatchGrid, pool_cells
from halovid.world.corruptions import KINDS

WEIGHTS = Path(__file__).parent / "critic.safetensors"


class Critic(nn.Module):
    """[B, 3, 13, 64, 64] -> logits of (clean, *KINDS) on a grid of 4 x 8 x 8 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _block(3, 24, (1, 2, 2)),
            _block(24, 48, (1, 2, 2)),
            _block(48, 64, (2, 2, 2)),
            _block(64, 96, (2, 1, 1)),
            _block(96, 96, (1, 1, 1)),
            nn.Conv3d(96, 1 + len(KINDS), 1),
        )

    def forward(self, video: Tensor) -> Tensor:
        """[B, 1 + kinds, 4, 8, 8]; the first frame is repeated to fill a group of four, as in the latents."""
        return self.layers(torch.cat([video[:, :, :1].expand(-1, -1, 3, -1, -1), video], dim=2))

    @torch.no_grad()
    def defect_probability(self, video: Tensor, grid: PatchGrid) -> Tensor:
        """Probability that each patch shows a corruption, [B, t, h, w]."""
        return pool_cells(1 - self(video).softmax(1)[:, 0], grid)

    @torch.no_grad()
    def kinds(self, video: Tensor, grid: PatchGrid) -> Tensor:
        """The likeliest corruption of each patch, index into KINDS, [B, t, h, w], whether or not there is one."""
        return pool_cells(self(video).softmax(1)[:, 1:], grid).argmax(1)


def _block(inputs: int, outputs: int, stride: tuple[int, int, int]) -> nn.Sequential:
    """A 3 x 3 x 3 convolution with group normalisation."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(inplace=True)
    )


@functools.cache
def load_critic() -> Critic:
    """The packaged critic, in evaluation mode."""
    critic = Critic()
    critic.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return critic.eval().requires_grad_(False)
