"""Learning from preference pairs that were made beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from halovid.config.align import AlignConfig
from halovid.maths.noise import timestep_weight
from halovid.training.batches import batch_indices, draw_noise
from halovid.training.objectives import Objective
from halovid.training.pair_errors import pair_errors
from halovid.training.pairs import PairBatch, PairSource
from halovid.training.parallel import Parallel
from halovid.training.policy import Policy
from halovid.training.task import Batch


@dataclass(frozen=True)
class NoisyPairs:
    """B pairs with the noise of their clips, [B, 2, C, T, h, w], and the noise level of each pair, [B]."""

    pairs: PairBatch
    noise: Tensor
    level: Tensor

    def __len__(self) -> int:
        return len(self.pairs)

    def rows(self, indices: Tensor) -> NoisyPairs:
        """The pairs of these indices, [n]."""
        return NoisyPairs(self.pairs.rows(indices), self.noise[indices], self.level[indices])

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return self.pairs.tensors() | {"noise": self.noise, "level": self.level}


@dataclass(frozen=True)
class PairTask:
    """A `TrainingTask` on the pairs of a table; an epoch visits them all once.

    seed: with the number of a step it decides which pairs, noise and noise levels the step gets.
    """

    policy: Policy
    objective: Objective
    pairs: PairSource
    options: AlignConfig
    seed: int
    steps_between_checkpoints: int = 1

    def batch(self, step: int, parallel: Parallel) -> NoisyPairs:
        """See `TrainingTask.batch`."""
        options = self.options
        indices = batch_indices(len(self.pairs), options.batch_size, step, self.seed)
        rows = parallel.slice(len(indices))
        pairs = self.pairs.batch([indices[row] for row in rows])
        shape = pairs.latents.shape[2:]
        drawn = draw_noise((len(indices), 2), shape, options.shared_noise, options.sigma, step, self.seed)
        noise, level = (whole_batch[rows.start : rows.stop].to(pairs.latents) for whole_batch in drawn)
        return NoisyPairs(pairs, noise, level)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `TrainingTask.loss`."""
        noisy = cast(NoisyPairs, batch)
        errors = pair_errors(self.policy, noisy.pairs, noisy.noise, noisy.level, self.objective.needs.reference)
        weight = timestep_weight(self.policy.model.noise, noisy.level, self.options.timestep_weight)
        loss, metrics = self.objective.loss(errors, noisy.pairs.margins, weight)
        return noisy.pairs.weight * loss, metrics

    def cost(self, steps: int) -> dict[str, float]:
        """See `TrainingTask.cost`; what the pairs cost is not in it."""
        needs = self.objective.needs
        calls_per_pair = (1 + needs.rejected) * (1 + needs.reference)
        return {"cost/denoiser_calls": float(steps * self.options.batch_size * calls_per_pair)}
