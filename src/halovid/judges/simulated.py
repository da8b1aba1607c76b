"""A judge as fallible as a vision-language model: another judge's ratings with noise, rounding and plain errors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from halovid.config.run import JudgeConfig
from halovid.judges import make_truth
from halovid.judges.base import Judge
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.maths.seeds import derive_seed
from halovid.records import HIGHEST, LOWEST, Judgement, Refusal, Request


class SimulatedJudge:
    """Integer ratings 1..5: the true rating plus noise, rounded; a share of them replaced by a random one.

    The errors of a clip are a function of its id and the seed, so asking again gives the same answer.
    """

    def __init__(self, truth: Judge, error_rate: float, noise: float, seed: int) -> None:
        self.name = f"simulated-1({truth.name}, error_rate={error_rate}, noise={noise}, seed={seed})"
        self._truth, self._error_rate, self._noise, self._seed = truth, error_rate, noise, seed

    def judge(self, requests: Sequence[Request], geometry: LatentGeometry) -> list[Judgement | Refusal]:
        """The fallible ratings of each clip; refusals pass through."""
        answers = self._truth.judge(requests, geometry)
        return [
            answer if isinstance(answer, Refusal) else self._with_errors(answer, request.clip_id)
            for answer, request in zip(answers, requests, strict=True)
        ]

    def _with_errors(self, truth: Judgement, clip_id: str) -> Judgement:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, clip_id))
        clip = {aspect: float(self._fallible(torch.tensor(rating), generator)) for aspect, rating in truth.clip.items()}
        return Judgement(
            clip, {aspect: self._fallible(ratings, generator) for aspect, ratings in truth.patches.items()}
        )

    def _fallible(self, truth: Tensor, generator: torch.Generator) -> Tensor:
        """Fallible ratings of true ones, same shape."""
        noisy = truth + self._noise * torch.randn(truth.shape, generator=generator)
        rounded = noisy.round().clamp(LOWEST, HIGHEST)
        is_replaced = torch.rand(truth.shape, generator=generator) < self._error_rate
        replacement = torch.randint(int(LOWEST), int(HIGHEST) + 1, truth.shape, generator=generator).float()
        return torch.where(is_replaced, replacement, rounded)


def open_simulated(config: JudgeConfig, grid: PatchGrid, seed: int) -> SimulatedJudge:
    """A judge that makes the configured errors about the truth."""
    return SimulatedJudge(make_truth(grid), config.error_rate, config.noise, seed)
