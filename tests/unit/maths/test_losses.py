"""The terms of the losses against references in float64, and their invariants."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halovid.maths.losses import (
    PairErrors,
    anchor_term,
    clip_term,
    drift_term,
    nft_term,
    patch_accuracy,
    patch_term,
    patch_weights,
    squared_error_map,
)
from tiny_pairs import GRID, B, C, H, T, W, make_errors, make_margins, minus_log_sigmoid, random, region_means, swap

quick = settings(max_examples=40, deadline=None, derandomize=True)
# margins of 2 pairs x 6 patches, with ties and values that differ by orders of magnitude
sizes = st.one_of(st.just(0.0), st.floats(1e-6, 1e-3), st.floats(1e-3, 5))
margin_values = st.builds(lambda size, sign: size * sign, sizes, st.sampled_from([-1, 1]))
patch_margins = st.lists(margin_values, min_size=12, max_size=12).map(
    lambda values: torch.tensor(values, dtype=torch.float64).reshape(2, 1, 2, 3)
)


def predicted_errors(seed: int) -> tuple[Tensor, Tensor, PairErrors]:
    """Predictions of policy and reference for both clips [4, B, C, T, H, W], targets, and the errors."""
    predictions, targets = random(4, B, C, T, H, W, seed=seed), random(2, B, C, T, H, W, seed=seed + 1)
    maps = [(predictions[i] - targets[i % 2]).square().mean(1) for i in range(4)]
    drift = [(predictions[i] - predictions[i + 2]).square().mean(1) for i in (0, 1)]
    return predictions, targets, PairErrors(*maps, *drift)


def test_the_error_map_is_the_mean_over_channels_in_float32() -> None:
    prediction, target = random(B, C, T, H, W), random(B, C, T, H, W, seed=1)
    expected = torch.zeros(B, T, H, W, dtype=torch.float64)
    for channel in range(C):
        expected += (prediction[:, channel] - target[:, channel]) ** 2 / C
    error_map = squared_error_map(prediction, target)
    assert error_map.dtype == torch.float32
    torch.testing.assert_close(error_map.double(), expected, rtol=1e-5, atol=1e-6)
    coarse = squared_error_map(prediction.bfloat16(), target.bfloat16())
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, squared_error_map(prediction.bfloat16().double(), target.bfloat16().double()))


def test_negating_the_patch_margins_alone_mirrors_the_patch_term() -> None:
    logits, margins = 4 * random(B, *GRID) - 2, make_margins().patches
    weights = patch_weights(margins, power=1, tie=0)
    lean = (weights * margins.sign() * logits).sum((1, 2, 3))
    mirrored = patch_term(logits, -margins, weights) - patch_term(logits, margins, weights)
    torch.testing.assert_close(mirrored, lean)
    assert (lean.abs() > 1e-3).all()


@quick
@given(st.floats(0.01, 5), st.floats(0, 3), st.floats(-4, 4))
def test_the_clip_margin_weighs_the_clip_term(margin: float, power: float, logit: float) -> None:
    term = clip_term(torch.tensor([logit], dtype=torch.float64), torch.tensor([margin], dtype=torch.float64), power)
    assert term.item() == pytest.approx(margin**power * float(minus_log_sigmoid(np.array(logit))))


@quick
@given(patch_margins, st.floats(0, 3), st.sampled_from([0.0, 1e-4, 0.5]))
def test_patch_weights_sum_to_one_and_ties_weigh_nothing(margins: Tensor, power: float, tie: float) -> None:
    weights = patch_weights(margins, power, tie)
    assert weights.shape == margins.shape
    assert (weights >= 0).all()
    for weight, margin in zip(weights, margins, strict=True):
        decided = margin.abs() > tie
        assert (weight[~decided] == 0).all()
        assert weight.sum().item() == pytest.approx(float(decided.any()), abs=1e-9)
        if decided.any():
            size = margin[decided].abs() ** power
            torch.testing.assert_close(weight[decided] * size.sum(), size, rtol=1e-9, atol=1e-30)


@quick
@given(patch_margins.filter(lambda margins: bool((margins != 0).flatten(1).any(1).all())), st.floats(0.01, 100))
def test_patch_weights_do_not_depend_on_the_unit_of_the_margins(margins: Tensor, unit: float) -> None:
    torch.testing.assert_close(patch_weights(unit * margins, 1.7, 0), patch_weights(margins, 1.7, 0))


def test_the_anchor_is_the_error_of_the_winner_of_each_patch() -> None:
    errors = make_errors()
    margins = torch.where(torch.arange(30).reshape(GRID) % 2 == 0, 1.0, -1.0).double().expand(B, *GRID)
    for patch in product(*map(range, GRID)):
        only = torch.zeros(B, *GRID, dtype=torch.float64)
        only[(slice(None), *patch)] = 1
        winner = errors.chosen if margins[(0, *patch)] > 0 else errors.rejected
        expected = region_means(winner, GRID)[(slice(None), *patch)]
        np.testing.assert_allclose(anchor_term(errors, margins, only).numpy(), expected, rtol=1e-6)


def test_drift_counts_on_the_patches_that_tie_alone() -> None:
    predictions, _, errors = predicted_errors(seed=7)
    margins, tie = make_margins(seed=3).patches, 0.4
    distance = 0.5 * (predictions[:2] - predictions[2:]).square().mean(2).sum(0)  # the mean of both clips
    ties = (margins.abs() <= tie).numpy()
    expected = (region_means(distance, GRID) * ties).mean((1, 2, 3))
    assert 0 < ties.mean() < 1
    np.testing.assert_allclose(drift_term(errors, margins, tie).numpy(), expected)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_nft_term_is_the_weighted_error_of_a_model_ahead_and_one_behind(beta: float) -> None:
    predictions, targets, errors = predicted_errors(seed=3)
    margins = 4 * random(B, *GRID, seed=9) - 2
    share = 0.5 + 0.5 * (margins / 1.5).clamp(-1, 1).numpy()

    def weighted(policy: Tensor, reference: Tensor, target: Tensor, good: np.ndarray) -> np.ndarray:
        ahead = (reference + beta * (policy - reference) - target).square().mean(1)
        behind = (reference - beta * (policy - reference) - target).square().mean(1)
        start = (reference - target).square().mean(1)
        means = (region_means(cells, GRID) for cells in (ahead, behind, start))
        first, second, constant = means
        return (good * first + (1 - good) * second - constant) / beta

    expected = weighted(predictions[0], predictions[2], targets[0], share) + weighted(
        predictions[1], predictions[3], targets[1], 1 - share
    )
    terms = nft_term(errors, margins, beta, certain_margin=1.5)
    np.testing.assert_allclose(terms.numpy(), expected.mean((1, 2, 3)), rtol=1e-9)


def test_the_nft_term_vanishes_at_the_reference_and_ignores_the_order_of_the_pair() -> None:
    _, _, errors = predicted_errors(seed=5)
    margins = make_margins().patches
    nothing = torch.zeros_like(errors.chosen)
    still = PairErrors(errors.chosen, errors.rejected, errors.chosen, errors.rejected, nothing, nothing)
    assert nft_term(still, margins, 0.1, 1).abs().max() == 0
    torch.testing.assert_close(nft_term(swap(errors), -margins, 0.1, 1), nft_term(errors, margins, 0.1, 1))


def test_patch_accuracy_is_the_weight_of_the_patches_that_agree() -> None:
    logits, margins = 4 * random(B, *GRID) - 2, make_margins().patches
    weights = patch_weights(margins, 1, 0.1)
    expected = (weights * ((margins * logits) > 0)).sum((1, 2, 3))
    torch.testing.assert_close(patch_accuracy(logits, margins, weights), expected)


def test_a_pair_whose_patches_all_tie_has_no_patch_accuracy() -> None:
    margins = make_margins().patches
    margins[0] = 0
    accuracy = patch_accuracy(4 * random(B, *GRID) - 2, margins, patch_weights(margins, 1, 0))
    assert accuracy.isnan().tolist() == [True, False]
