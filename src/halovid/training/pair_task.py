"""Learning from preference pairs that were made beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from halovid.config.align import AlignConfig
from halovid.maths.noise import timestep_weight
from halovid.training.batches import batch_indices
from halovid.training.objectives import Objective
from halovid.training.pair_errors import pair_errors
from halovid.training.pairs import PairBatch, PairSource
from halovid.training.parallel import Parallel
from halovid.training.policy import Policy
from halovid.training.task import Batch, NoisyBatch


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

    def batch(self, step: int, parallel: Parallel) -> NoisyBatch[PairBatch]:
        """See `TrainingTask.batch`."""
        indices = batch_indices(len(self.pairs), self.options.batch_size, step, self.seed)
        rows = parallel.slice(len(indices))
        pairs = self.pairs.batch([indices[row] for row in rows])
        return NoisyBatch.draw(pairs, 2, len(indices), rows, self.options, step, self.seed)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `TrainingTask.loss`."""
        noisy = cast(NoisyBatch[PairBatch], batch)
        errors = pair_errors(self.policy, noisy.items, noisy.noise, noisy.level, self.objective.needs.reference)
        weight = timestep_weight(self.policy.model.noise, noisy.level, self.options.timestep_weight)
        loss, metrics = self.objective.loss(errors, noisy.items.margins, weight)
        return noisy.items.weight * loss, metrics

    def cost(self, steps: int) -> dict[str, float]:
        """See `TrainingTask.cost`; what the pairs cost is not in it."""
        needs = self.objective.needs
        calls_per_pair = (1 + needs.rejected) * (1 + needs.reference)
        return {"cost/denoiser_calls": float(steps * self.options.batch_size * calls_per_pair)}
