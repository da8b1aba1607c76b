"""Losses on groups against their definitions, and what they must not depend on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

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
from tiny_pairs import GRID, H, T, W, minus_log_sigmoid, random, region_means

B, N, C = 2, 4, 3
quick = settings(max_examples=40, deadline=None, derandomize=True)


def make_errors(seed: int = 0) -> GroupErrors:
    return GroupErrors(*random(5, B, N, T, H, W, seed=seed))


def rewards(seed: int = 7) -> Tensor:
    return random(B, N, *GRID, seed=seed)


@quick
@given(st.floats(0.1, 100), st.floats(-50, 50))
def test_advantages_depend_on_differences_within_the_group_in_units_of_its_spread(scale: float, shift: float) -> None:
    plain = advantages(rewards(), floor=0, most=2)
    torch.testing.assert_close(advantages(scale * rewards() + shift, floor=0, most=2), plain, rtol=1e-6, atol=1e-9)
    assert plain.abs().max() <= 1
    assert torch.equal(plain.argsort(1), rewards().argsort(1)), "nothing is cut off here, and the order stays"


def test_an_advantage_is_counted_in_deviations_up_to_the_most_that_counts() -> None:
    values = torch.tensor([[0.0, 0.0, 0.0, 4.0]], dtype=torch.float64)
    relative = (values - 1) / (math.sqrt(3) + 0.5)
    torch.testing.assert_close(advantages(values, floor=0.5, most=1.0), relative.clamp(-1, 1))
    torch.testing.assert_close(advantages(values, floor=0.5, most=10.0), relative / 10)


def test_equal_rewards_and_refused_clips_have_no_advantage() -> None:
    assert not advantages(torch.ones(1, 3, 2), floor=0, most=2).any()
    values = rewards()
    values[0, 1] = torch.nan
    others = [0, 2, 3]
    result = advantages(values, floor=0.1, most=2)
    assert not result[0, 1].any()
    torch.testing.assert_close(result[:1, others], advantages(values[:1, others], floor=0.1, most=2))


def test_nft_is_its_definition_up_to_what_the_policy_cannot_change() -> None:
    """1/b (r |v_old + b (v - v_old) - t|^2 + (1 - r) |v_old - b (v - v_old) - t|^2), mean over regions and clips."""
    target, old = random(2, B * N, C, T, H, W, seed=3)
    advantage, beta = advantages(rewards(), floor=0.1, most=2), 0.3
    good = (1 + advantage) / 2

    def both(policy: Tensor) -> tuple[Tensor, Tensor]:
        maps = [(policy - target), (old - target), (policy - old)]
        error, old_error, moved = (value.square().mean(1).unflatten(0, (B, N)) for value in maps)
        term = nft_group_term(GroupErrors(error, old_error, error, moved, error), advantage, beta)
        ahead, behind = old + beta * (policy - old), old - beta * (policy - old)
        plus, minus = (
            torch.from_numpy(region_means((side - target).square().mean(1), GRID)).unflatten(0, (B, N))
            for side in (ahead, behind)
        )
        return term, ((good * plus + (1 - good) * minus) / beta).mean((1, 2, 3, 4))

    first, second = both(random(B * N, C, T, H, W, seed=4)), both(random(B * N, C, T, H, W, seed=5))
    torch.testing.assert_close(second[0] - first[0], second[1] - first[1])


def test_a_region_without_an_advantage_is_held_by_nft_and_silent_in_the_policy_gradient() -> None:
    errors, nothing = make_errors(), torch.zeros(B, N, *GRID, dtype=torch.float64)
    held = 0.4 * pool_cells(errors.moved, PatchGrid(*GRID)).mean((1, 2, 3, 4))
    torch.testing.assert_close(nft_group_term(errors, nothing, 0.4), held)
    assert not policy_gradient_term(errors, nothing, scale=1.0, reach=0.2).any()


def test_the_policy_gradient_is_that_of_ppo_region_by_region() -> None:
    errors, advantage = make_errors(), advantages(rewards(), floor=0.1, most=2)
    ratio = np.exp(2.0 * region_means((errors.behaviour - errors.policy).flatten(0, 1), GRID).reshape(B, N, *GRID))
    worth = advantage.numpy()
    expected = np.maximum(-worth * ratio, -worth * ratio.clip(0.9, 1.1)).mean((1, 2, 3, 4))
    np.testing.assert_allclose(policy_gradient_term(errors, advantage, scale=2.0, reach=0.1).numpy(), expected)


def test_where_the_ratio_has_gone_far_enough_nothing_more_is_earned() -> None:
    policy = torch.zeros(B, N, T, H, W, dtype=torch.float64, requires_grad=True)
    far = torch.ones_like(policy)  # the policy's error is far smaller: rho = e
    better = torch.ones(B, N, *GRID, dtype=torch.float64)
    policy_gradient_term(GroupErrors(policy, far, far, far, far), better, scale=1.0, reach=0.2).sum().backward()
    assert policy.grad is not None and not policy.grad.any()
    policy_gradient_term(GroupErrors(policy, far, far, far, far), -better, scale=1.0, reach=0.2).sum().backward()
    assert (policy.grad != 0).all(), "a clip that is worse may still be unlearned"


def test_the_probabilities_of_all_orders_sum_to_one() -> None:
    logits, weights = random(1, N, 1, 1, 1, seed=2) * 3, torch.ones(1, 1, 1, 1, dtype=torch.float64)
    total = 0.0
    for order in itertools.permutations(range(N)):
        places = torch.tensor(order, dtype=torch.float64)[None, :, None, None, None]
        total += math.exp(-(N - 1) * plackett_luce_term(logits, places, weights).item())
    assert total == pytest.approx(1)


def test_two_clips_are_a_preference() -> None:
    logits, places = random(B, 2, *GRID, seed=1), random(B, 2, *GRID, seed=2)
    weights = ranking_weights(places, tie=0)
    margin = (logits[:, 0] - logits[:, 1]) * (places[:, 0] - places[:, 1]).sign()
    expected = (weights.numpy() * minus_log_sigmoid(margin.numpy())).sum((1, 2, 3))
    np.testing.assert_allclose(plackett_luce_term(logits, places, weights).numpy(), expected)


def test_refused_clips_take_no_part_in_an_order() -> None:
    logits, places = random(B, N, *GRID, seed=1), rewards()
    places[:, 2] = torch.nan
    weights, others = ranking_weights(places, tie=0), [0, 1, 3]
    torch.testing.assert_close(weights, ranking_weights(places[:, others], tie=0))
    term = plackett_luce_term(logits, places, weights) * (N - 1)
    torch.testing.assert_close(term, plackett_luce_term(logits[:, others], places[:, others], weights) * (N - 2))


def test_regions_weigh_by_how_much_the_group_differs_in_them() -> None:
    places = rewards()
    places[:, :, 0] = 1.0
    weights = ranking_weights(places, tie=0)
    assert not weights[:, 0].any()
    torch.testing.assert_close(weights.sum((1, 2, 3)), torch.ones(B, dtype=torch.float64))
    ratio = weights[0, 1, 0, 0] / weights[0, 1, 1, 1]
    torch.testing.assert_close(
        ratio, places[0, :, 1, 0, 0].std(unbiased=False) / places[0, :, 1, 1, 1].std(unbiased=False)
    )
    assert not ranking_weights(places, tie=10).any()


def test_the_anchor_of_a_group_is_the_error_of_the_clip_that_is_best_in_each_region() -> None:
    errors, places = make_errors(), rewards()
    weights = ranking_weights(places, tie=0)
    means = region_means(errors.policy.flatten(0, 1), GRID).reshape(B, N, *GRID)
    best = np.take_along_axis(means, places.numpy().argmax(1)[:, None], 1)[:, 0]
    np.testing.assert_allclose(
        best_of_group_term(errors, places, weights).numpy(), (weights.numpy() * best).sum((1, 2, 3))
    )


def test_drift_is_a_mean_over_everything() -> None:
    errors = make_errors()
    torch.testing.assert_close(group_drift_term(errors), errors.drift.flatten(1).mean(1))


@pytest.mark.parametrize("order", [[3, 1, 0, 2], [1, 0, 3, 2]])
def test_the_order_of_the_clips_means_nothing(order: list[int]) -> None:
    errors, places = make_errors(), rewards()
    shuffled = GroupErrors(*(value[:, order] for value in vars(errors).values()))
    for term in (
        lambda e, r: nft_group_term(e, advantages(r, 0.1, 2), 0.3),
        lambda e, r: policy_gradient_term(e, advantages(r, 0.1, 2), 1.0, 0.2),
        lambda e, r: plackett_luce_term(-pool_cells(e.policy, PatchGrid(*GRID)), r, ranking_weights(r, 0)),
        lambda e, r: best_of_group_term(e, r, ranking_weights(r, 0)),
    ):
        torch.testing.assert_close(term(shuffled, places[:, order]), term(errors, places))
