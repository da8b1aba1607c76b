"""A training small enough for unit tests: a network of a few weights behind the methods that a training calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halovid.config.align import AlignConfig
from halovid.config.recipes import make_config
from halovid.maths.losses import Margins
from halovid.maths.noise import NoiseProcess
from halovid.records import Conditioning
from halovid.training.loop import Alignment
from halovid.training.objectives import make_objective
from halovid.training.pair_task import PairTask
from halovid.training.pairs import PairBatch
from halovid.training.parallel import OneProcess, Parallel
from halovid.training.policy import Policy

C, T, H, W = 2, 3, 4, 4
GRID = (3, 2, 2)
SEED = 5
PROMPT = (3, C)  # rows and width of a text condition
OPTIONS: dict[str, Any] = {
    "method": "full",
    "batch_size": 4,
    "learning_rate": 0.01,
    "warmup": 0,
    "steps": 6,
    "ema": 0.5,
}


class TinyDenoiser(nn.Module):
    """Mixes channels, and adds the mean of the text condition and the level."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv3d(C, C, 1)
        self.text = nn.Linear(C, C)

    def forward(self, noisy: Tensor, level: Tensor, prompts: Tensor) -> Tensor:
        condition = self.text(prompts.mean(1)) + level[:, None]
        return self.mix(noisy) + condition[:, :, None, None, None]


class TinyModel:
    """What a training calls of a model; `predicted` notes how many clips each prediction was for."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.denoisers: dict[str, Any] = {"transformer": TinyDenoiser()}
        self.noise = NoiseProcess("flow")
        self.predicted: list[int] = []
        self.saved: list[Path] = []

    def predict(self, noisy: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        self.predicted.append(len(noisy))
        return self.denoisers["transformer"](noisy, level, conditioning.tensors["prompt_embeds"])

    def save_weights(self, folder: Path) -> None:
        self.saved.append(folder)


class TinyPairs:
    """Pairs that are functions of their index alone; the indices in `tied` have patches that all tie."""

    def __init__(self, count: int = 10, sides: int = 2, tied: Sequence[int] = (), broken: Sequence[int] = ()) -> None:
        self._count, self._sides, self._tied, self._broken = count, sides, tied, broken

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Sequence[int]) -> PairBatch:
        pairs = [self._pair(index) for index in indices]
        latents, prompts, clip, patches, weight = (torch.stack(values) for values in zip(*pairs, strict=True))
        return PairBatch(latents, Conditioning({"prompt_embeds": prompts}), Margins(clip, patches), weight)

    def _pair(self, index: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(index)
        latents = torch.randn(2, C, T, H, W, generator=generator)[: self._sides]
        prompts, patches = torch.randn(*PROMPT, generator=generator), torch.randn(*GRID, generator=generator)
        if index in self._broken:
            latents = latents * torch.inf
        return (
            latents,
            prompts,
            torch.tensor(0.5 + index),
            patches * (index not in self._tied),
            torch.tensor(1.0 + index),
        )


def make_alignment(
    folder: Path, pairs: TinyPairs | None = None, parallel: Parallel | None = None, **options: Any
) -> Alignment:
    """A training of `TinyModel` on `TinyPairs` with some options of the section align changed."""
    align: AlignConfig = make_config({"align": OPTIONS | options}).align
    objective = make_objective(align.objective)
    sides = 2 if objective.needs.rejected else 1
    policy = Policy(TinyModel(), align, parallel)
    task = PairTask(policy, objective, pairs or TinyPairs(sides=sides), align, SEED)
    return Alignment(policy, task, align, folder, parallel or OneProcess())
