"""Best-of-N with early rejection: clips are rated while they are still noisy, and only the promising are finished."""

from __future__ import annotations

import torch
from torch import Tensor

from halovid.config.search import RejectOptions
from halovid.maths.noise import seeded_noise
from halovid.models import DiffusionModel
from halovid.models.random_sampling import sampling_levels
from halovid.records import PromptBatch
from halovid.rewards.rewarder import DenoiserRewarder
from halovid.search.best_of import Choice, best_of_tries, rewards_to_compare


class BestOfPromising:
    """Begins `count` clips of each prompt, finishes those that promise most, and keeps the best; a `Draw`.

    The clips are sampled in even steps of the noise process, not by the pipeline's own call, which can't be stopped and
    continued.

    Args:
        by: compare the rewards of the clips, or the mean rewards of their patches.
        steps: of a whole sampling.
    """

    def __init__(
        self,
        model: DiffusionModel,
        rewarder: DenoiserRewarder,
        options: RejectOptions,
        count: int,
        by: Choice,
        steps: int,
    ) -> None:
        self._model, self._rewarder, self._count, self._by = model, rewarder, count, by
        self._kept = max(1, round(options.keep * count))
        levels = sampling_levels(steps, 1.0)
        rated = int((levels > options.level).sum())  # the first step that starts from no more noise
        self._before, self._after = levels[: rated + 1], levels[rated:]

    @property
    def denoiser_calls(self) -> int:
        """What a clip costs: all tries up to their rating, the ratings, each less than a whole call, and the rest."""
        begun, finished = len(self._before) - 1, len(self._after) - 1
        return (self._count * begun + self._kept * finished) * self._model.calls_per_step + self._count

    def __call__(self, prompts: PromptBatch, seeds: list[int]) -> Tensor:
        """The latents of the best finished clip of each prompt, [B, C, T, h, w]; try k has the seeds plus k."""
        assert prompts.conditioning is not None, "clips are sampled from conditionings"
        model, level = self._model, float(self._after[0])
        conditioning = prompts.conditioning.to(model.device)
        begun, promises = [], []
        for k in range(self._count):
            noise = seeded_noise(model.latent_shape, [seed + k for seed in seeds]).to(model.device)
            noisy = model.denoise(noise, conditioning, self._before)
            rewards = self._rewarder.reward_noisy(noisy, prompts, level)
            begun.append(noisy)
            promises.append(rewards_to_compare(rewards, self._by))
        order = torch.stack(promises).argsort(dim=0, descending=True, stable=True)[: self._kept]  # [kept, B]
        rows = torch.arange(len(seeds))
        finished = [model.denoise(torch.stack(begun)[tries, rows], conditioning, self._after) for tries in order]
        return best_of_tries(finished, model, self._rewarder, prompts, self._by)
