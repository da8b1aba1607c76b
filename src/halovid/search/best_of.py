"""Best-of-N sampling: several clips of each prompt are sampled, and the one with the highest reward is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from halovid.models import Sampler
from halovid.records import PromptBatch, Rewards
from halovid.rewards.rewarder import Rewarder
from halovid.search.rewarding import comparable_rewards

Choice = Literal["clip", "patch"]  # compare the rewards of clips, or the mean rewards of their patches


class BestOf:
    """Samples `count` clips of each prompt and keeps the best; a `search.draw.Draw`."""

    def __init__(self, model: Sampler, rewarder: Rewarder, count: int, by: Choice) -> None:
        self._model, self._rewarder, self._count, self._by = model, rewarder, count, by

    def __call__(self, prompts: PromptBatch, seeds: list[int]) -> Tensor:
        """The latents of the best clip of each prompt, [B, C, T, h, w].

        Try k has the seeds plus k, so with `count` 1 the clips are those that the model alone samples.

        Raises:
            InputError: see `comparable_rewards`.
        """
        conditioning = prompts.conditioning
        assert conditioning is not None, "clips are sampled from conditionings"
        tries = [self._model.sample(conditioning, [seed + k for seed in seeds]) for k in range(self._count)]
        return best_of_tries(tries, self._model, self._rewarder, prompts, self._by)


def best_of_tries(
    tries: Sequence[Tensor], model: Sampler, rewarder: Rewarder, prompts: PromptBatch, by: Choice
) -> Tensor:
    """The best of several clips of each prompt, [B, C, T, h, w]; one that the rewarder refuses for good is the worst.

    Args:
        tries: latents [B, C, T, h, w] of a clip of each prompt.

    Raises:
        InputError: see `comparable_rewards`.
    """
    rewards = [comparable_rewards(model, rewarder, latents, prompts) for latents in tries]
    best = torch.stack([rewards_to_compare(each, by) for each in rewards]).argmax(0).to(tries[0].device)
    return torch.stack(list(tries))[best, torch.arange(len(best), device=best.device)]


def rewards_to_compare(rewards: Rewards, by: Choice) -> Tensor:
    """The rewards that are compared, [B]; minus infinity for a clip that is refused."""
    return (rewards.clip if by == "clip" else rewards.patch_means).nan_to_num(nan=-torch.inf)
