"""What every objective on groups must do, and that clips and patches get credit as they should."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from halovid.config.objectives import GranDPOOptions
from halovid.config.recipes import make_config
from halovid.maths.group_losses import GroupErrors
from halovid.maths.losses import Margins, PairErrors
from halovid.store.errors import InputError
from halovid.training.objectives import (
    GROUP_OBJECTIVES,
    GroupNeeds,
    GroupObjective,
    GroupRewards,
    make_group_objective,
    make_objective,
)
from tiny_pairs import GRID, B, H, T, W, ones, random

N = 4
EVERY: list[dict[str, Any]] = [
    *(
        {"name": name, **change}
        for name in GROUP_OBJECTIVES
        for change in ({}, {"credit": "clip"}, {"lambda_drift": 2})
    ),
    {"name": "plackett_luce", "lambda_anchor": 0},
]
every_objective = pytest.mark.parametrize("options", EVERY, ids=lambda options: "-".join(map(str, options.values())))


def objective_of(options: dict[str, Any]) -> GroupObjective:
    rollouts = {"random_steps": 1}
    return make_group_objective(make_config({"align": {"objective": options, "rollouts": rollouts}}).align.objective)


def make_errors(clips: int = N, seed: int = 0) -> GroupErrors:
    return GroupErrors(*random(5, B, clips, T, H, W, seed=seed))


def make_rewards(clips: int = N) -> GroupRewards:
    return GroupRewards(random(B, clips, seed=8), random(B, clips, *GRID, seed=9))


def without(errors: GroupErrors, needs: GroupNeeds) -> GroupErrors:
    """The errors as a training gives them: NaN where no prediction is made."""
    absent = set() if needs.behaviour else {"behaviour", "moved"}
    absent |= set() if needs.reference else {"reference", "drift"}
    return dataclasses.replace(errors, **{name: torch.full_like(errors.policy, torch.nan) for name in absent})


@every_objective
def test_it_asks_for_all_that_it_reads(options: dict[str, Any]) -> None:
    objective = objective_of(options)
    loss, metrics = objective.loss(without(make_errors(), objective.needs), make_rewards(), ones)
    assert loss.shape == (B,) and loss.isfinite().all()
    torch.testing.assert_close(loss, objective.loss(make_errors(), make_rewards(), ones)[0])
    assert all(value.shape == (B,) for value in metrics.values())


@every_objective
def test_a_refused_clip_teaches_nothing(options: dict[str, Any]) -> None:
    rewards = make_rewards()
    rewards.clip[:, 1] = torch.nan
    rewards.patches[:, 1] = torch.nan
    policy = random(B, N, T, H, W, seed=3).requires_grad_()
    errors = dataclasses.replace(make_errors(), policy=policy)
    loss, _ = objective_of(options).loss(errors, rewards, ones)
    loss.sum().backward()
    assert policy.grad is not None and loss.isfinite().all()
    assert not policy.grad[:, 1].any() and policy.grad[:, [0, 2, 3]].any()


@every_objective
def test_credit_goes_to_patches_or_to_the_clip_as_a_whole(options: dict[str, Any]) -> None:
    """Only the first patch differs: with credit for patches the others' errors are neither raised nor lowered."""
    if options["name"] == "plackett_luce":
        options = options | {"lambda_anchor": 0}
    patches = torch.ones(B, N, *GRID, dtype=torch.float64)
    patches[:, :, 0, 0, 0] = random(B, N, seed=4)
    rewards = GroupRewards(patches.mean((2, 3, 4)), patches)
    policy = random(B, N, T, H, W, seed=3).requires_grad_()
    same = policy.detach()
    zero = torch.zeros_like(same)
    loss, _ = objective_of(options).loss(GroupErrors(policy, same, same, zero, zero), rewards, ones)
    loss.sum().backward()
    assert policy.grad is not None
    elsewhere = policy.grad[:, :, T // GRID[0] + 1 :].any() or policy.grad[..., W // GRID[2] + 1 :].any()
    assert policy.grad[:, :, 0, 0, 0].any()
    assert bool(elsewhere) == (options.get("credit") == "clip")


@every_objective
def test_better_clips_are_made_likelier(options: dict[str, Any]) -> None:
    rewards = GroupRewards(
        torch.tensor([[1.0, 0.0, 0.0, 0.5]], dtype=torch.float64).expand(B, N),
        torch.tensor([[1.0, 0.0, 0.0, 0.5]], dtype=torch.float64)[:, :, None, None, None].expand(B, N, *GRID),
    )
    policy = random(B, N, T, H, W, seed=3).requires_grad_()
    same, zero = policy.detach(), torch.zeros(B, N, T, H, W, dtype=torch.float64)
    loss, _ = objective_of(options).loss(GroupErrors(policy, same, same, zero, zero), rewards, ones)
    loss.sum().backward()
    assert policy.grad is not None
    assert (policy.grad[:, 0] > 0).all(), "a step down the gradient lowers the error of the best clip"
    assert (policy.grad[:, 1:3].sum((2, 3, 4)) <= 0).all()


def test_a_pair_objective_gets_the_best_and_the_worst_clip() -> None:
    options = GranDPOOptions()
    on_groups, on_pairs = make_group_objective(options), make_objective(options)
    assert on_groups.needs == GroupNeeds(reference=True, extremes=True)
    errors, rewards = make_errors(2), make_rewards(2)
    rewards.clip[:] = torch.tensor([2.0, 1.0])
    policy, reference, drift = errors.policy, errors.reference, errors.drift
    pairs = PairErrors(*(value[:, side] for value in (policy, reference, drift) for side in (0, 1)))
    margins = Margins(rewards.clip[:, 0] - rewards.clip[:, 1], rewards.patches[:, 0] - rewards.patches[:, 1])
    torch.testing.assert_close(on_groups.loss(errors, rewards, ones)[0], on_pairs.loss(pairs, margins, ones)[0])
    rewards.clip[0, 1] = torch.nan
    rewards.patches[0, 1] = torch.nan
    loss, _ = on_groups.loss(errors, rewards, ones)
    assert loss[0] == 0 and loss[1] > 0


def test_groups_need_rollouts_and_grpo_its_random_steps() -> None:
    for name in GROUP_OBJECTIVES:
        with pytest.raises(InputError, match=f"objective {name} compares the clips of a group.*`rollouts`"):
            make_config({"align": {"objective": {"name": name}}})
    with pytest.raises(InputError, match=r"set rollouts\.random_steps"):
        make_config({"align": {"objective": {"name": "gran_grpo"}, "rollouts": {}}})
