"""Best-of-N: a generator that tries several times and keeps the clip that a reward model likes best. No training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from halovid.maths.grid import PatchGrid
from halovid.models import Sampler
from halovid.records import Conditioning
from halovid.rewards.network import RewardNetwork
from halovid.rewards.scoring import reward_clips


class BestOf:
    """The `Sampler` whose samples are the best of `count` samples of another one.

    Args:
        by: what is compared: the reward of the clip, or the mean reward of its patches.
    """

    def __init__(
        self, generator: Sampler, network: RewardNetwork, grid: PatchGrid, count: int, by: Literal["clip", "patch"]
    ) -> None:
        self._generator, self._network, self._grid, self._count, self._by = generator, network, grid, count, by
        self.geometry = generator.geometry

    def sample(self, conditioning: Conditioning, seeds: list[int]) -> Tensor:
        """[B, C, T, h, w]; the first try has the seed itself, so that one try is the plain generator."""
        tries = [self._generator.sample(conditioning, [seed + k for seed in seeds]) for k in range(self._count)]
        rewards = torch.stack([self._reward(latents, conditioning) for latents in tries])
        rows = torch.arange(len(seeds), device=rewards.device)
        return torch.stack(tries)[rewards.argmax(0), rows]

    def _reward(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """The reward of each clip, [B]."""
        video = self.decode_video(latents)
        prompts = conditioning.text_states().to(video.device)
        clips, patches = reward_clips(self._network, video, prompts, self._grid)
        return clips if self._by == "clip" else patches.flatten(1).mean(1)

    def decode_video(self, latents: Tensor) -> Tensor:
        """As the generator."""
        return self._generator.decode_video(latents)
