"""Objectives on groups of clips of one prompt, each with credit for patches or, as its clip-level twin, for clips."""

from __future__ import annotations

import torch
from torch import Tensor

from halovid.config.objectives import (
    AdvantageOptions,
    GranAwmOptions,
    GranGrpoOptions,
    GranNftOptions,
    PlackettLuceOptions,
)
from halovid.maths.grid import PatchGrid, pool_cells
from halovid.maths.group_losses import (
    GroupErrors,
    advantages,
    best_of_group_term,
    group_drift_term,
    nft_group_term,
    plackett_luce_term,
    policy_gradient_term,
    ranking_weights,
)
from halovid.maths.losses import Margins, PairErrors
from halovid.training.objectives.base import GroupLoss, GroupNeeds, GroupRewards, Objective, Stateless


class GranNft(Stateless):
    """loss = the reward-weighted forward process + lambda_drift * drift, see `group_losses.nft_group_term`."""

    def __init__(self, options: GranNftOptions) -> None:
        self._options = options
        self.needs = GroupNeeds(behaviour=True, reference=options.lambda_drift > 0)

    def loss(self, errors: GroupErrors, rewards: GroupRewards, timestep_weight: Tensor) -> GroupLoss:
        """See `GroupObjective.loss`."""
        options, advantage = self._options, _advantages(rewards, self._options)
        term = nft_group_term(errors, advantage, options.beta)
        return _with_drift(term, "nft", errors, options.lambda_drift)


class GranPolicyGradient(Stateless):
    """loss = the clipped policy gradient + lambda_drift * drift, see `group_losses.policy_gradient_term`.

    With `GranAwmOptions` on the errors of denoising, with `GranGrpoOptions` on the sampler's random steps.
    """

    def __init__(self, options: GranAwmOptions | GranGrpoOptions) -> None:
        self._options = options
        on_random_steps = isinstance(options, GranGrpoOptions)
        self._scale = 1.0 if isinstance(options, GranGrpoOptions) else options.scale
        self.needs = GroupNeeds(True, reference=options.lambda_drift > 0, random_steps=on_random_steps)

    def loss(self, errors: GroupErrors, rewards: GroupRewards, timestep_weight: Tensor) -> GroupLoss:
        """See `GroupObjective.loss`."""
        options, advantage = self._options, _advantages(rewards, self._options)
        term = policy_gradient_term(errors, advantage, self._scale, options.reach)
        return _with_drift(term, "policy_gradient", errors, options.lambda_drift)


class PlackettLuce(Stateless):
    """loss = the surprise at the order of the clips + lambda_anchor * anchor + lambda_drift * drift."""

    def __init__(self, options: PlackettLuceOptions) -> None:
        self._options = options
        self.needs = GroupNeeds(reference=True)

    def loss(self, errors: GroupErrors, rewards: GroupRewards, timestep_weight: Tensor) -> GroupLoss:
        """See `GroupObjective.loss`."""
        options, regions = self._options, rewards.of_regions(self._options.credit)
        weights = ranking_weights(regions, options.tie)
        gaps = pool_cells(errors.policy - errors.reference, PatchGrid(*regions.shape[2:]))
        logits = -options.beta * timestep_weight[:, None, None, None, None] * gaps
        ranking = plackett_luce_term(logits, regions, weights)
        anchor = best_of_group_term(errors, regions, weights)
        loss, metrics = _with_drift(ranking, "ranking", errors, options.lambda_drift)
        return loss + options.lambda_anchor * anchor, metrics | {"loss/anchor": anchor}


class BestAgainstWorst:
    """A pair objective on the best and the worst clip of each group: online DPO and its granular form."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.needs = GroupNeeds(reference=objective.needs.reference, extremes=True)

    def loss(self, errors: GroupErrors, rewards: GroupRewards, timestep_weight: Tensor) -> GroupLoss:
        """See `GroupObjective.loss`; a group with a refused clip among the two teaches nothing."""
        maps = (errors.policy, errors.reference, errors.drift)
        pairs = PairErrors(*(side for map_of_errors in maps for side in map_of_errors.unbind(1)))
        margins = Margins(rewards.clip[:, 0] - rewards.clip[:, 1], rewards.patches[:, 0] - rewards.patches[:, 1])
        loss, metrics = self._objective.loss(pairs, _without_nan(margins), timestep_weight)
        return torch.where(margins.clip.isnan(), 0.0, loss), metrics

    def observe(self, metrics: dict[str, float]) -> None:
        """See `Stateful.observe`."""
        self._objective.observe(metrics)

    def state_dict(self) -> dict[str, float | None]:
        """See `Stateful.state_dict`."""
        return self._objective.state_dict()

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """See `Stateful.load_state_dict`."""
        self._objective.load_state_dict(state_dict)


def _advantages(rewards: GroupRewards, options: AdvantageOptions) -> Tensor:
    return advantages(rewards.of_regions(options.credit), options.floor, options.most)


def _with_drift(term: Tensor, name: str, errors: GroupErrors, weight: float) -> GroupLoss:
    """The loss of a term and of the drift, and what all group objectives log."""
    drift = group_drift_term(errors)
    metrics = {
        f"loss/{name}": term,
        "errors/drift": drift,
        "errors/moved": errors.moved.mean((1, 2, 3, 4)),
    }
    return (term + weight * drift if weight else term), metrics


def _without_nan(margins: Margins) -> Margins:
    return Margins(margins.clip.nan_to_num(nan=0.0), margins.patches.nan_to_num(nan=0.0))
