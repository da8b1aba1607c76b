"""Best-of-N sampling: several clips of each prompt are sampled, and the one with the highest reward is kept."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from halovid.models import Sampler
from halovid.records import PromptBatch
from halovid.rewards.rewarder import Rewarder
from halovid.search.rewarding import reward_latents


class BestOf:
    """Samples `count` clips of each prompt and keeps the best; a `search.draw.Draw`.

    Args:
        by: compare the rewards of the clips, or the mean rewards of their patches.
    """

    def __init__(self, model: Sampler, rewarder: Rewarder, count: int, by: Literal["clip", "patch"]) -> None:
        self._model, self._rewarder, self._count, self._by = model, rewarder, count, by

    def __call__(self, prompts: PromptBatch, seeds: list[int]) -> Tensor:
        """The latents of the best clip of each prompt, [B, C, T, h, w].

        Try k has the seeds plus k, so with `count` 1 the clips are those that the model alone samples. A try that the
        rewarder refuses for good counts as the worst.

        Raises:
            InputError: see `reward_latents`.
        """
        conditioning = prompts.conditioning
        assert conditioning is not None, "clips are sampled from conditionings"
        tries = [self._model.sample(conditioning, [seed + k for seed in seeds]) for k in range(self._count)]
        rewards = torch.stack([self._reward(latents, prompts) for latents in tries])
        best = rewards.argmax(0).to(tries[0].device)
        return torch.stack(tries)[best, torch.arange(len(seeds), device=best.device)]

    def _reward(self, latents: Tensor, prompts: PromptBatch) -> Tensor:
        """The rewards that are compared, [B]; minus infinity for a clip that is refused."""
        rewards = reward_latents(self._model, self._rewarder, latents, prompts)
        return (rewards.clip if self._by == "clip" else rewards.patch_means).nan_to_num(nan=-torch.inf)
