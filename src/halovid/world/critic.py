"""The packaged critics: small convolutional networks that name the corruption in each patch, one for each world.

They are the independent reward models of the embedded worlds: other architecture, other data (rendered scenes, never a
generated clip), other seeds than anything that alignment sees. They do not read the caption.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from halovid.maths.grid import PatchGrid, pool_cells
from halovid.store.errors import InputError
from halovid.world.corruptions import KINDS
from halovid.world.worlds import World

_FOLDER = Path(__file__).parent
WEIGHTS = {  # name of a world -> the weights of its critic
    "plain": _FOLDER / "critic.safetensors",
    "panorama": _FOLDER / "critic-panorama.safetensors",
}


class Critic(nn.Module):
    """[B, 3, F, H, W] -> logits of (clean, *KINDS) on a grid of (F + 3) / 4 x H / 8 x W / 8 cells."""

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
        """[B, 1 + kinds, T, h, w]; the first frame is repeated to fill a group of four, as in the latents."""
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
def load_critic(world: World) -> Critic:
    """The packaged critic of a world, in evaluation mode.

    Raises:
        InputError: the package holds none.
    """
    weights = WEIGHTS[world.name]
    if not weights.is_file():
        raise InputError(
            f"the {world.name} world has no critic: {weights} is missing; train it by "
            f"`python -m halovid.world_training critic --world {world.name}`"
        )
    critic = Critic()
    critic.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    return critic.eval().requires_grad_(False)
