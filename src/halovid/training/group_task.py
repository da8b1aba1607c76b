"""Learning from groups of clips that the policy makes while it is trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

from torch import Tensor

from halovid.config.align import AlignConfig
from halovid.maths.noise import timestep_weight
from halovid.store.work import Row
from halovid.training.batches import batch_indices
from halovid.training.groups import GroupBatch, denoising_errors, random_step_errors
from halovid.training.objectives import GroupObjective, GroupRewards
from halovid.training.parallel import Parallel
from halovid.training.policy import Policy
from halovid.training.rollouts import Rollouts
from halovid.training.task import Batch, NoisyBatch


class GroupTask:
    """A `TrainingTask` on rollouts: rounds of `align.rollouts.updates` steps, each on new clips.

    Args:
        seed: with the number of a step it decides which groups, noise and noise levels the step gets.
    """

    def __init__(
        self, policy: Policy, objective: GroupObjective, rollouts: Rollouts, options: AlignConfig, seed: int
    ) -> None:
        assert options.rollouts is not None
        self.policy, self.objective, self._rollouts = policy, objective, rollouts
        self._options, self._seed = options, seed
        self._rollout_options = options.rollouts

    @property
    def steps_between_checkpoints(self) -> int:
        """Those of a round: within it the policy is compared with how it was at its beginning."""
        return self._rollout_options.updates

    def batch(self, step: int, parallel: Parallel) -> NoisyBatch[GroupBatch]:
        """See `TrainingTask.batch`."""
        number, step_in_round = divmod(step, self._rollout_options.updates)
        if step_in_round == 0:
            self.policy.keep_behaviour()
        whole_round = self._rollouts.groups(number, parallel)
        indices = batch_indices(len(whole_round), self._options.batch_size, step, self._seed)
        rows, needs = parallel.slice(len(indices)), self.objective.needs
        groups = whole_round.rows([indices[row] for row in rows])
        if needs.extremes:
            groups = groups.best_and_worst()
        groups = groups.with_random_step(step_in_round) if needs.random_steps else replace(groups, random_steps=None)
        groups = groups.to(self.policy.model.device)
        return NoisyBatch.draw(groups, groups.latents.shape[1], len(indices), rows, self._options, step, self._seed)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `TrainingTask.loss`."""
        noisy, needs = cast(NoisyBatch[GroupBatch], batch), self.objective.needs
        if needs.random_steps:
            errors = random_step_errors(self.policy, noisy.items, self._rollout_options.fresh, needs)
        else:
            errors = denoising_errors(self.policy, noisy, needs)
        weight = timestep_weight(self.policy.model.noise, noisy.level, self._options.timestep_weight)
        rewards = GroupRewards(noisy.items.clip_rewards, noisy.items.patch_rewards)
        return self.objective.loss(errors, rewards, weight)

    def rollout_rows(self, steps: int) -> list[Row]:
        """Rows of tables.ROLLOUTS: the clips of all rounds of a training of so many steps."""
        return self._rollouts.table_rows(math.ceil(steps / self._rollout_options.updates))

    def cost(self, steps: int) -> dict[str, float]:
        """See `TrainingTask.cost`."""
        needs, rounds = self.objective.needs, math.ceil(steps / self._rollout_options.updates)
        clips = 2 if needs.extremes else self._rollout_options.clips
        passes = 1 + needs.behaviour + needs.reference
        guided = self.policy.model.calls_per_step if needs.random_steps else 1
        training = steps * self._options.batch_size * clips * passes * guided
        return {
            "cost/denoiser_calls": float(rounds * self._rollouts.denoiser_calls + training),
            "cost/rewarded_clips": float(rounds * self._rollouts.prompts_per_round * self._rollout_options.clips),
        }
