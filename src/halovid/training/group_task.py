"""Learning from groups of clips that the policy makes while it is trained."""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor

from halovid.config.align import AlignConfig
from halovid.maths.noise import timestep_weight
from halovid.models.random_sampling import RandomSteps
from halovid.store.work import Row
from halovid.training.batches import batch_indices, draw_noise
from halovid.training.groups import GroupBatch, NoisyGroups, denoising_errors, random_step_errors
from halovid.training.objectives import GroupObjective, GroupRewards
from halovid.training.parallel import Parallel
from halovid.training.policy import Policy
from halovid.training.rollouts import Rollouts
from halovid.training.task import Batch


class GroupTask:
    """A `TrainingTask` on rollouts: rounds of `align.rollouts.updates` steps, each on new clips.

    Args:
        seed: with the number of a step it decides which groups, noise and noise levels the step gets.
    """

    def __init__(
        self, policy: Policy, objective: GroupObjective, rollouts: Rollouts, options: AlignConfig, seed: int
    ) -> None:
        assert options.rollouts is not None
        self._policy, self.objective, self._rollouts = policy, objective, rollouts
        self._options, self._seed = options, seed
        self._updates, self._fresh, self._clips = (
            options.rollouts.updates,
            options.rollouts.fresh,
            options.rollouts.clips,
        )
        self.steps_between_checkpoints = (
            self._updates
        )  # within a round the policy is compared with how it was at its beginning

    def batch(self, step: int, parallel: Parallel) -> NoisyGroups:
        """See `TrainingTask.batch`."""
        number, step_in_round = divmod(step, self._updates)
        if step_in_round == 0:
            self._policy.keep_behaviour()
        groups = self._rollouts.groups(number, parallel)
        options = self._options
        indices = batch_indices(len(groups), options.batch_size, step, self._seed)
        rows = parallel.slice(len(indices))
        groups = groups.rows([indices[row] for row in rows])
        if self.objective.needs.extremes:
            groups = groups.best_and_worst()
        elif groups.random_steps is not None:
            groups = _with_one_random_step(groups, step_in_round)
        size = (len(indices), groups.latents.shape[1])
        drawn = draw_noise(size, groups.latents.shape[2:], options.shared_noise, options.sigma, step, self._seed)
        noise, level = (whole_batch[rows.start : rows.stop] for whole_batch in drawn)
        return NoisyGroups(groups, noise, level).to(self._policy.model.device)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `TrainingTask.loss`."""
        noisy, needs = cast(NoisyGroups, batch), self.objective.needs
        if needs.random_steps:
            errors = random_step_errors(self._policy, noisy.groups, self._fresh, needs)
        else:
            errors = denoising_errors(self._policy, noisy, needs)
        weight = timestep_weight(self._policy.model.noise, noisy.level, self._options.timestep_weight)
        rewards = GroupRewards(noisy.groups.clip_rewards, noisy.groups.patch_rewards)
        return self.objective.loss(errors, rewards, weight)

    def rollout_rows(self, steps: int) -> list[Row]:
        """Rows of tables.ROLLOUTS: the clips of all rounds of a training of so many steps."""
        return self._rollouts.table_rows(math.ceil(steps / self._updates))

    def cost(self, steps: int) -> dict[str, float]:
        """See `TrainingTask.cost`."""
        needs, rounds = self.objective.needs, math.ceil(steps / self._updates)
        clips = 2 if needs.extremes else self._clips
        passes = 1 + needs.behaviour + needs.reference
        guided = self._policy.model.calls_per_step if needs.random_steps else 1
        training = steps * self._options.batch_size * clips * passes * guided
        return {
            "cost/denoiser_calls": float(rounds * self._rollouts.denoiser_calls + training),
            "cost/rewarded_clips": float(rounds * self._rollouts.prompts_per_round * self._clips),
        }


def _with_one_random_step(groups: GroupBatch, step_in_round: int) -> GroupBatch:
    """The groups with one random step of each clip: the updates of a round take them in turn."""
    steps = groups.random_steps
    assert steps is not None
    turn = step_in_round % steps.level.shape[2]
    one = RandomSteps(*(value[:, :, turn : turn + 1] for value in vars(steps).values()))
    return GroupBatch(groups.latents, groups.conditioning, groups.clip_rewards, groups.patch_rewards, one)
