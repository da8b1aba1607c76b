"""Best-of-N: sample several clips of each prompt and keep the one that a reward model likes best. No training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from halovid.models import Sampler
from halovid.records import PromptBatch
from halovid.rewards.rewarder import Rewarder
from halovid.store.errors import InputError


class BestOf:
    """Draws the best of `count` clips that a model makes of each prompt.

    Args:
        by: what is compared: the reward of the clip, or the mean reward of its patches.
    """

    def __init__(self, model: Sampler, rewarder: Rewarder, count: int, by: Literal["clip", "patch"]) -> None:
        self._model, self._rewarder, self._count, self._by = model, rewarder, count, by

    def __call__(self, prompts: PromptBatch, seeds: list[int]) -> Tensor:
        """Latents of the best clips, [B, C, T, h, w]; see `clips.folder.Draw`.

        The first try has the seed itself, so that the best of one is what the model alone makes. A try that the
        rewarder refuses for good is the worst of all.

        Raises:
            InputError: the rewarder refuses a try for now, as while its server is down: the choice would not be among
                all tries.
        """
        conditioning = prompts.conditioning
        assert conditioning is not None, "nothing can be sampled without text conditions"
        tries = [self._model.sample(conditioning, [seed + k for seed in seeds]) for k in range(self._count)]
        rewards = torch.stack([self._reward(latents, prompts) for latents in tries])
        best = rewards.argmax(0).to(tries[0].device)
        return torch.stack(tries)[best, torch.arange(len(seeds), device=best.device)]

    def _reward(self, latents: Tensor, prompts: PromptBatch) -> Tensor:
        """What is compared of each clip, [B]; minus infinity for a clip that is refused."""
        rewards = self._rewarder.reward(self._model.decode_video(latents), prompts)
        for refusal in rewards.refusals:
            if refusal is not None and refusal.again:
                raise InputError(f"a clip can't be compared for best-of-{self._count}: {refusal.reason}; run it again")
        return (rewards.clip if self._by == "clip" else rewards.patch_means).nan_to_num(nan=-torch.inf)
