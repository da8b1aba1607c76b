"""Losses of reward models: probabilities that sum to one, symmetry, known values, pairs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halovid.maths.reward_losses import (
    bradley_terry_loss,
    draw_pairs,
    preference_log_probability,
    regression_loss,
)

MARGINS = torch.linspace(-7, 7, 29)


@pytest.mark.parametrize("theta", [1.5, 5.0, 20.0])
def test_the_three_outcomes_sum_to_one(theta: float) -> None:
    outcomes = [preference_log_probability(MARGINS, torch.full_like(MARGINS, m), 0.5, theta).exp() for m in (2, -2, 0)]
    torch.testing.assert_close(sum(outcomes), torch.ones_like(MARGINS))


def test_swapping_the_pair_swaps_the_outcome_and_leaves_a_tie() -> None:
    for label in (1.0, -1.0, 0.0):
        labels = torch.full_like(MARGINS, label)
        torch.testing.assert_close(
            preference_log_probability(MARGINS, labels, 0.5, 5), preference_log_probability(-MARGINS, -labels, 0.5, 5)
        )


def test_without_a_margin_every_outcome_has_its_known_probability() -> None:
    zero = torch.zeros(1)
    assert bradley_terry_loss(zero, torch.ones(1), 0.0).item() == pytest.approx(math.log(6))  # 1 / (1 + theta)
    assert bradley_terry_loss(zero, zero, 0.0).item() == pytest.approx(-math.log(4 / 6))  # the rest


def test_nearly_without_ties_it_is_plain_bradley_terry() -> None:
    labels = torch.where(MARGINS > 1, 1.0, -1.0)
    plain = -torch.nn.functional.logsigmoid(labels.sign() * MARGINS).mean()
    assert bradley_terry_loss(MARGINS, labels, 0.0, 1.0 + 1e-6).item() == pytest.approx(plain.item(), rel=1e-4)


def test_the_gradient_pulls_ties_together_and_preferences_apart() -> None:
    score = torch.tensor([2.0, 2.0, -2.0], requires_grad=True)
    bradley_terry_loss(score, torch.tensor([0.1, 3.0, 3.0]), 0.25).backward()
    assert score.grad is not None
    tied, preferred, wrong = score.grad
    assert tied > 0 > preferred > wrong


def test_only_differences_count() -> None:
    scores, labels = torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(0))
    first, second = draw_pairs(11, 2, torch.Generator().manual_seed(1))
    loss = [bradley_terry_loss(s[first] - s[second], labels[first] - labels[second], 0.2) for s in (scores, scores + 5)]
    torch.testing.assert_close(loss[0], loss[1])


def test_regression_is_the_mean_squared_error() -> None:
    assert regression_loss(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[1.0, 0.0], [4.0, 5.0]])) == 1.25


@given(st.integers(2, 40), st.integers(1, 9), st.integers(0, 5))
def test_every_item_meets_others_never_itself_and_no_one_twice(count: int, partners: int, seed: int) -> None:
    first, second = draw_pairs(count, partners, torch.Generator().manual_seed(seed))
    kept = min(partners, count - 1)
    assert len(first) == len(second) == kept * count
    assert (first != second).all()
    assert first.bincount(minlength=count).tolist() == second.bincount(minlength=count).tolist() == [kept] * count
    assert len({(int(a), int(b)) for a, b in zip(first, second, strict=True)}) == kept * count


def test_one_item_alone_has_nothing_to_be_compared_with() -> None:
    first, second = draw_pairs(1, 4, torch.Generator())
    assert len(first) == len(second) == 0
    score = torch.ones(1, requires_grad=True)
    loss = bradley_terry_loss(score[first] - score[second], torch.ones(0), 0.25)
    loss.backward()
    assert loss == 0 and score.grad is not None and score.grad == 0


def test_unknown_labels_do_not_count() -> None:
    scores, labels = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[2.0, torch.nan], [3.0, 1.0]])
    assert regression_loss(scores, labels).item() == pytest.approx((1 + 0 + 16) / 3)
    margins = torch.tensor([1.0, torch.nan, -1.0])
    loss = bradley_terry_loss(torch.tensor([0.5, 9.0, 2.0]), margins, 0.0)
    assert loss.item() == pytest.approx(bradley_terry_loss(torch.tensor([0.5, 2.0]), margins[[0, 2]], 0.0).item())


def test_without_any_known_label_nothing_is_pulled() -> None:
    scores = torch.ones(3, 2, requires_grad=True)
    loss = regression_loss(scores, torch.full((3, 2), torch.nan))
    loss.backward()
    assert loss.item() == 0 and scores.grad is not None and scores.grad.abs().sum() == 0
