"""Gran-DPO against references in float64, its special cases and its invariants."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from halovid.maths.grid import PatchGrid, pool_cells
from halovid.maths.losses import (
    GranDPOOptions,
    Margins,
    PairErrors,
    anchor_term,
    gran_dpo_loss,
    nft_term,
    patch_term,
    patch_weights,
    squared_error_map,
    video_term,
)

B, C, T, H, W = 2, 3, 5, 7, 11
GRID = (2, 3, 5)
LOG_2 = math.log(2)

ONLY_VIDEO = GranDPOOptions(lambda_video=1, lambda_patch=0, lambda_anchor=0, beta_video=3)
ONLY_PATCH = GranDPOOptions(lambda_video=0, lambda_patch=1, lambda_anchor=0, beta_patch=3)
ones = torch.ones(B, dtype=torch.float64)
quick = settings(max_examples=40, deadline=None, derandomize=True)
# margins of 2 pairs x 6 patches, with ties and values that differ by orders of magnitude
sizes = st.one_of(st.just(0.0), st.floats(1e-6, 1e-3), st.floats(1e-3, 5))
margin_values = st.builds(lambda size, sign: size * sign, sizes, st.sampled_from([-1, 1]))
patch_margins = st.lists(margin_values, min_size=12, max_size=12).map(
    lambda values: torch.tensor(values, dtype=torch.float64).reshape(2, 1, 2, 3)
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_errors(seed: int = 0, pairs: int = B) -> PairErrors:
    return PairErrors(*random(6, pairs, T, H, W, seed=seed))


def make_margins(grid: tuple[int, int, int] = GRID, seed: int = 1) -> Margins:
    return Margins(random(B, seed=seed) + 0.1, random(B, *grid, seed=seed + 1) - 0.5, ones)


def swap(errors: PairErrors) -> PairErrors:
    """The same pair with its clips exchanged."""
    return PairErrors(
        errors.rejected,
        errors.chosen,
        errors.ref_rejected,
        errors.ref_chosen,
        errors.drift_rejected,
        errors.drift_chosen,
    )


def region_means(cells: Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """Means of all patches of [B, T, h, w], from the exact overlap of each cell with each patch."""
    shares = []
    for size, parts in zip(cells.shape[1:], grid, strict=True):
        overlap = np.zeros((parts, size))
        for part, cell in product(range(parts), range(size)):
            share = min(Fraction(cell + 1, size), Fraction(part + 1, parts)) - max(
                Fraction(cell, size), Fraction(part, parts)
            )
            overlap[part, cell] = max(share, Fraction(0)) * parts
        shares.append(overlap)
    return np.einsum("btyx,it,jy,kx->bijk", cells.numpy(), *shares)


def minus_log_sigmoid(z: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -z)


def reference_gaps(errors: PairErrors) -> Tensor:
    return (errors.chosen - errors.ref_chosen) - (errors.rejected - errors.ref_rejected)


def test_the_error_map_is_the_mean_over_channels_in_float32() -> None:
    prediction, target = random(B, C, T, H, W), random(B, C, T, H, W, seed=1)
    expected = torch.zeros(B, T, H, W, dtype=torch.float64)
    for channel in range(C):
        expected += (prediction[:, channel] - target[:, channel]) ** 2 / C
    found = squared_error_map(prediction, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    coarse = squared_error_map(prediction.bfloat16(), target.bfloat16())
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, squared_error_map(prediction.bfloat16().double(), target.bfloat16().double()))


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("beta", [0.3, 5000.0])
def test_a_policy_that_equals_its_reference_gives_log_2_per_term(power: float, beta: float) -> None:
    chosen, rejected = random(2, B, T, H, W)
    options = GranDPOOptions(beta_video=beta, beta_patch=beta, margin_power_patch=power)
    margins = make_margins()
    loss, metrics = gran_dpo_loss(
        PairErrors(chosen, rejected, chosen, rejected, *2 * [torch.zeros_like(chosen)]), margins, random(B), options
    )
    torch.testing.assert_close(metrics["loss/video"], LOG_2 * ones)
    torch.testing.assert_close(metrics["loss/patch"], LOG_2 * ones)
    anchor = metrics["loss/anchor"]
    preferences = LOG_2 * (options.lambda_video + options.lambda_patch)
    torch.testing.assert_close(loss, preferences + options.lambda_anchor * anchor)
    assert metrics["rewards/margins"].tolist() == [0, 0]
    assert metrics["rewards/accuracies"].tolist() == [0.5, 0.5]
    torch.testing.assert_close(metrics["rewards/patch_accuracies"], 0.5 * ones)


def test_swapping_the_pair_negates_the_video_logits_and_keeps_what_patches_prefer() -> None:
    errors, margins = make_errors(), make_margins()
    swapped = swap(errors)
    options = GranDPOOptions(beta_video=3, beta_patch=3)
    _, before = gran_dpo_loss(errors, margins, ones, options)
    _, after = gran_dpo_loss(swapped, Margins(margins.clip, -margins.patches, margins.weight), ones, options)
    torch.testing.assert_close(after["rewards/margins"], -before["rewards/margins"])
    torch.testing.assert_close(after["rewards/accuracies"], 1 - before["rewards/accuracies"])
    # softplus(x) - softplus(-x) = x
    torch.testing.assert_close(after["loss/video"] - before["loss/video"], before["rewards/margins"])
    for name in ("loss/patch", "loss/anchor", "rewards/patch_accuracies"):
        torch.testing.assert_close(after[name], before[name])
    torch.testing.assert_close(after["errors/chosen"], before["errors/rejected"])


def test_negating_the_patch_margins_alone_mirrors_the_patch_term() -> None:
    logits, margins = 4 * random(B, *GRID) - 2, make_margins().patches
    weights = patch_weights(margins, ONLY_PATCH)
    lean = (weights * margins.sign() * logits).sum((1, 2, 3))
    mirrored = patch_term(logits, -margins, weights) - patch_term(logits, margins, weights)
    torch.testing.assert_close(mirrored, lean)
    assert (lean.abs() > 1e-3).all()


@pytest.mark.parametrize("lambdas", [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_one_patch_is_diffusion_dpo(lambdas: tuple[float, float]) -> None:
    """-log sigmoid(-b / 2 * (policy gap - reference gap)) of mean squared errors, arXiv 2311.12908, equation 14."""
    beta = 40.0
    predictions = random(4, B, C, T, H, W)
    targets = random(2, B, C, T, H, W, seed=1)
    mean = [((p - targets[i % 2]) ** 2).mean((1, 2, 3, 4)).numpy() for i, p in enumerate(predictions)]
    expected = minus_log_sigmoid(-beta / 2 * ((mean[0] - mean[2]) - (mean[1] - mean[3])))
    options = GranDPOOptions(
        lambda_video=lambdas[0],
        lambda_patch=lambdas[1],
        lambda_anchor=0,
        beta_video=beta / 2,
        beta_patch=beta / 2,
        margin_power_patch=1,
    )
    margins = Margins(random(B), random(B, 1, 1, 1, seed=2) + 0.1, ones)
    errors = PairErrors(
        *(squared_error_map(p, targets[i % 2]).double() for i, p in enumerate(predictions)),
        *(squared_error_map(predictions[i], predictions[i + 2]).double() for i in (0, 1)),
    )
    loss, _ = gran_dpo_loss(errors, margins, ones, options)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-5)


def test_a_grid_in_time_alone_is_a_preference_per_latent_frame() -> None:
    errors = make_errors()
    margins = make_margins((T, 1, 1))
    options = dataclasses.replace(ONLY_PATCH, margin_power_patch=0)
    loss, _ = gran_dpo_loss(errors, margins, ones, options)
    per_frame = [error.mean((2, 3)).numpy() for error in dataclasses.astuple(errors)]
    gap = (per_frame[0] - per_frame[2]) - (per_frame[1] - per_frame[3])
    sign = np.sign(margins.patches[:, :, 0, 0].numpy())
    np.testing.assert_allclose(loss.numpy(), minus_log_sigmoid(-3 * sign * gap).mean(1), rtol=1e-6)


@pytest.mark.parametrize("grid", [GRID, (3, 2, 2), (5, 7, 11), (7, 5, 3)])
def test_the_whole_loss_is_its_formula(grid: tuple[int, int, int]) -> None:
    errors, margins = make_errors(), make_margins(grid)
    level = random(B, seed=5)
    options = GranDPOOptions(
        lambda_video=0.7,
        lambda_patch=1.3,
        lambda_anchor=0.4,
        beta_video=2,
        beta_patch=5,
        margin_power_video=1.5,
        margin_power_patch=2,
        tie=0.05,
    )
    loss, metrics = gran_dpo_loss(errors, margins, level, options)
    assert loss.shape == (B,)

    gap = reference_gaps(errors)
    z_video = -2 * level.numpy() * gap.flatten(1).mean(1).numpy()
    z_patch = -5 * level.numpy()[:, None, None, None] * region_means(gap, grid)
    margin = margins.patches.numpy()
    weights = np.where(abs(margin) > 0.05, margin**2, 0)
    weights /= weights.sum((1, 2, 3), keepdims=True)
    winner = np.where(margin > 0, region_means(errors.chosen, grid), region_means(errors.rejected, grid))
    video = margins.clip.numpy() ** 1.5 * minus_log_sigmoid(z_video)
    patch = (weights * minus_log_sigmoid(np.sign(margin) * z_patch)).sum((1, 2, 3))
    anchor = (weights * winner).sum((1, 2, 3))
    np.testing.assert_allclose(loss.numpy(), 0.7 * video + 1.3 * patch + 0.4 * anchor, rtol=1e-6)
    for name, term in (("video", video), ("patch", patch), ("anchor", anchor)):
        np.testing.assert_allclose(metrics[f"loss/{name}"].numpy(), term, rtol=1e-6)
    agree = (weights * (margin * z_patch > 0)).sum((1, 2, 3))
    np.testing.assert_allclose(metrics["rewards/patch_accuracies"].numpy(), agree, rtol=1e-6)


def test_each_pair_has_a_loss_of_its_own() -> None:
    errors, margins, level = make_errors(), make_margins(), random(B, seed=5)
    together, _ = gran_dpo_loss(errors, margins, level, GranDPOOptions())
    for i in range(B):
        own = PairErrors(*(getattr(errors, field.name)[i : i + 1] for field in dataclasses.fields(errors)))
        part = Margins(margins.clip[i : i + 1], margins.patches[i : i + 1], margins.weight[i : i + 1])
        alone, _ = gran_dpo_loss(own, part, level[i : i + 1], GranDPOOptions())
        torch.testing.assert_close(alone, together[i : i + 1])
    assert not torch.isclose(together[0], together[1])


@quick
@given(st.floats(0.01, 5), st.floats(0, 3), st.floats(-4, 4))
def test_the_clip_margin_weighs_the_video_term(margin: float, power: float, logit: float) -> None:
    options = dataclasses.replace(ONLY_VIDEO, margin_power_video=power)
    term = video_term(torch.tensor([logit], dtype=torch.float64), torch.tensor([margin], dtype=torch.float64), options)
    assert term.item() == pytest.approx(margin**power * float(minus_log_sigmoid(np.array(logit))))


@quick
@given(patch_margins, st.floats(0, 3), st.sampled_from([0.0, 1e-4, 0.5]))
def test_patch_weights_sum_to_one_and_ties_weigh_nothing(margins: Tensor, power: float, tie: float) -> None:
    weights = patch_weights(margins, dataclasses.replace(ONLY_PATCH, margin_power_patch=power, tie=tie))
    assert weights.shape == margins.shape
    assert (weights >= 0).all()
    for own, margin in zip(weights, margins, strict=True):
        decided = margin.abs() > tie
        assert (own[~decided] == 0).all()
        assert own.sum().item() == pytest.approx(float(decided.any()), abs=1e-9)
        if decided.any():
            size = margin[decided].abs() ** power
            torch.testing.assert_close(own[decided] * size.sum(), size, rtol=1e-9, atol=1e-30)


@quick
@given(patch_margins.filter(lambda margins: bool((margins != 0).flatten(1).any(1).all())), st.floats(0.01, 100))
def test_patch_weights_do_not_depend_on_the_unit_of_the_margins(margins: Tensor, unit: float) -> None:
    options = dataclasses.replace(ONLY_PATCH, margin_power_patch=1.7)
    torch.testing.assert_close(patch_weights(unit * margins, options), patch_weights(margins, options))


def test_a_tied_patch_has_no_say() -> None:
    grid = (1, 1, 11)  # one column of cells per patch
    errors, margins = make_errors(), make_margins(grid)
    margins.patches.add_(0.1 * margins.patches.sign())[..., 3] = 0.05
    options = dataclasses.replace(ONLY_PATCH, tie=0.05, lambda_anchor=1)
    errors.chosen.requires_grad_()
    loss, _ = gran_dpo_loss(errors, margins, ones, options)
    loss.sum().backward()
    assert errors.chosen.grad is not None
    assert (errors.chosen.grad[..., 3] == 0).all()
    assert ((errors.chosen.grad != 0).any(1).any(1).sum(1) == 10).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_pair_whose_patches_all_tie_has_no_patch_term_and_a_finite_gradient(power: float) -> None:
    errors, margins = make_errors(), make_margins()
    margins.patches[0] = 0
    options = GranDPOOptions(margin_power_patch=power)
    for field in dataclasses.fields(errors):
        getattr(errors, field.name).requires_grad_()
    loss, metrics = gran_dpo_loss(errors, margins, ones, options)
    assert metrics["loss/patch"][0] == 0
    assert metrics["loss/anchor"][0] == 0
    assert metrics["loss/patch"][1] > 0.1
    loss.sum().backward()
    for name in ("chosen", "rejected", "ref_chosen", "ref_rejected"):
        gradient = getattr(errors, name).grad
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()


def test_the_anchor_is_the_error_of_the_winner_of_each_patch() -> None:
    grid = PatchGrid(*GRID)
    errors = make_errors()
    margins = torch.where(torch.arange(30).reshape(GRID) % 2 == 0, 1.0, -1.0).double().expand(B, *GRID)
    for patch in product(*map(range, GRID)):
        only = torch.zeros(B, *GRID, dtype=torch.float64)
        only[(slice(None), *patch)] = 1
        winner = errors.chosen if margins[(0, *patch)] > 0 else errors.rejected
        expected = region_means(winner, GRID)[(slice(None), *patch)]
        np.testing.assert_allclose(anchor_term(errors, margins, only, grid).numpy(), expected, rtol=1e-6)


def test_a_step_moves_each_patch_towards_the_clip_it_prefers() -> None:
    grid = PatchGrid(1, 1, 2)
    targets = random(2, B, C, T, H, 8)
    predictions = random(2, B, C, T, H, 8, seed=1).requires_grad_()
    start = [squared_error_map(predictions[side].detach(), targets[side]) for side in (0, 1)]
    margins = Margins(torch.ones(B), torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 2).expand(B, -1, -1, -1), torch.ones(B))
    now = [squared_error_map(predictions[side], targets[side]) for side in (0, 1)]
    loss, _ = gran_dpo_loss(PairErrors(*now, *start, *start), margins, torch.ones(B), ONLY_PATCH)
    loss.sum().backward()
    assert predictions.grad is not None
    moved = predictions.detach() - predictions.grad
    change = [
        pool_cells(squared_error_map(moved[side], targets[side]) - start[side], grid).reshape(B, 2) for side in (0, 1)
    ]
    assert (change[0][:, 0] < 0).all() and (change[1][:, 0] > 0).all()  # prefers the chosen clip
    assert (change[0][:, 1] > 0).all() and (change[1][:, 1] < 0).all()  # prefers the rejected one


def test_the_timestep_weight_scales_the_logits_of_its_pair() -> None:
    errors, margins = make_errors(), make_margins()
    level = torch.tensor([0.0, 0.5], dtype=torch.float64)
    options = GranDPOOptions(lambda_video=0.5, beta_video=6, beta_patch=8, lambda_anchor=0)
    halved = GranDPOOptions(lambda_video=0.5, beta_video=3, beta_patch=4, lambda_anchor=0)
    loss, _ = gran_dpo_loss(errors, margins, level, options)
    expected, _ = gran_dpo_loss(errors, margins, ones, halved)
    torch.testing.assert_close(loss[1], expected[1])
    torch.testing.assert_close(loss[0], 1.5 * LOG_2 * ones[0])


def test_metrics_tell_errors_against_the_reference_and_carry_no_gradient() -> None:
    errors = make_errors()
    errors.chosen.requires_grad_()
    _, metrics = gran_dpo_loss(errors, make_margins(), ones, GranDPOOptions(beta_video=50))
    chosen = (errors.chosen - errors.ref_chosen).detach().flatten(1).mean(1)
    rejected = (errors.rejected - errors.ref_rejected).flatten(1).mean(1)
    torch.testing.assert_close(metrics["errors/chosen"], chosen)
    torch.testing.assert_close(metrics["errors/rejected"], rejected)
    torch.testing.assert_close(metrics["rewards/margins"], -50 * (chosen - rejected))
    assert metrics["rewards/accuracies"].tolist() == (chosen < rejected).double().tolist()
    assert all(value.shape == (B,) and not value.requires_grad for value in metrics.values())


def test_enormous_logits_stay_finite() -> None:
    errors, margins = make_errors(), make_margins()
    options = GranDPOOptions(beta_video=1e6, beta_patch=1e6)
    errors.chosen.requires_grad_()
    loss, _ = gran_dpo_loss(errors, margins, ones, options)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert errors.chosen.grad is not None and torch.isfinite(errors.chosen.grad).all()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(GranDPOOptions)])
def test_no_option_may_be_negative(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        GranDPOOptions(**{field: -0.1})


@pytest.mark.parametrize("field", ["beta_video", "beta_patch"])
def test_beta_must_be_positive(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        GranDPOOptions(**{field: 0})


def test_an_unknown_option_is_refused() -> None:
    unknown = {"beta_pach": 3.0}
    with pytest.raises(ValidationError, match="beta_pach"):
        GranDPOOptions(**unknown)


def predicted_errors(seed: int) -> tuple[Tensor, Tensor, PairErrors]:
    """Predictions of policy and reference for both clips [4, B, C, T, H, W], targets, and the errors."""
    predictions, targets = random(4, B, C, T, H, W, seed=seed), random(2, B, C, T, H, W, seed=seed + 1)
    maps = [(predictions[i] - targets[i % 2]).square().mean(1) for i in range(4)]
    drift = [(predictions[i] - predictions[i + 2]).square().mean(1) for i in (0, 1)]
    return predictions, targets, PairErrors(*maps, *drift)


@pytest.mark.parametrize("step", [0.1, 1.0])
def test_the_nft_term_is_the_weighted_error_of_a_model_ahead_and_one_behind(step: float) -> None:
    predictions, targets, errors = predicted_errors(seed=3)
    margins = 4 * random(B, *GRID, seed=9) - 2
    options = GranDPOOptions(nft_step=step, nft_margin=1.5)
    share = 0.5 + 0.5 * (margins / 1.5).clamp(-1, 1).numpy()

    def weighted(policy: Tensor, reference: Tensor, target: Tensor, good: np.ndarray) -> np.ndarray:
        ahead = (reference + step * (policy - reference) - target).square().mean(1)
        behind = (reference - step * (policy - reference) - target).square().mean(1)
        start = (reference - target).square().mean(1)
        means = (region_means(cells, GRID) for cells in (ahead, behind, start))
        first, second, constant = means
        return (good * first + (1 - good) * second - constant) / step

    expected = weighted(predictions[0], predictions[2], targets[0], share) + weighted(
        predictions[1], predictions[3], targets[1], 1 - share
    )
    found = nft_term(errors, margins, PatchGrid(*GRID), options)
    np.testing.assert_allclose(found.numpy(), expected.mean((1, 2, 3)), rtol=1e-9)


def test_the_nft_term_vanishes_at_the_reference_and_ignores_the_order_of_the_pair() -> None:
    _, _, errors = predicted_errors(seed=5)
    margins, grid = make_margins().patches, PatchGrid(*GRID)
    nothing = torch.zeros_like(errors.chosen)
    still = PairErrors(errors.chosen, errors.rejected, errors.chosen, errors.rejected, nothing, nothing)
    assert nft_term(still, margins, grid, GranDPOOptions()).abs().max() == 0
    torch.testing.assert_close(
        nft_term(swap(errors), -margins, grid, GranDPOOptions()), nft_term(errors, margins, grid, GranDPOOptions())
    )


def test_sft_is_plain_denoising_of_the_chosen_clip() -> None:
    errors = make_errors()
    options = GranDPOOptions(lambda_video=0, lambda_patch=0, lambda_anchor=0, lambda_sft=3)
    loss, _ = gran_dpo_loss(errors, make_margins(), ones, options)
    torch.testing.assert_close(loss, 3 * errors.chosen.mean((1, 2, 3)))


def test_a_pairs_weight_multiplies_its_whole_loss() -> None:
    errors, margins = make_errors(), make_margins()
    options = GranDPOOptions(lambda_sft=0.3, lambda_nft=0.7)
    plain, _ = gran_dpo_loss(errors, margins, ones, options)
    weight = torch.tensor([0.25, 3.0], dtype=torch.float64)
    weighted, _ = gran_dpo_loss(errors, dataclasses.replace(margins, weight=weight), ones, options)
    torch.testing.assert_close(weighted, weight * plain)


def test_the_log_tells_displacement_of_the_winning_patches_and_drift() -> None:
    _, _, errors = predicted_errors(seed=7)
    margins = make_margins()
    _, metrics = gran_dpo_loss(errors, margins, ones, ONLY_PATCH)
    gaps = [
        region_means(cells, GRID)
        for cells in (errors.chosen - errors.ref_chosen, errors.rejected - errors.ref_rejected)
    ]
    weights = patch_weights(margins.patches, ONLY_PATCH).numpy()
    expected = (weights * np.where(margins.patches.numpy() > 0, *gaps)).sum((1, 2, 3))
    np.testing.assert_allclose(metrics["errors/winning_patches"].numpy(), expected, rtol=1e-9)
    drift = (errors.drift_chosen.mean((1, 2, 3)) + errors.drift_rejected.mean((1, 2, 3))) / 2
    torch.testing.assert_close(metrics["errors/drift"], drift)
