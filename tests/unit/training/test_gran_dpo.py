"""Gran-DPO against references in float64, its special cases and its invariants."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from halovid.config.objectives import GranDPOOptions
from halovid.maths.grid import PatchGrid, pool_cells
from halovid.maths.losses import Margins, PairErrors, patch_weights, squared_error_map
from halovid.training.objectives import make_objective
from tiny_pairs import (
    GRID,
    B,
    C,
    H,
    T,
    W,
    make_errors,
    make_margins,
    minus_log_sigmoid,
    ones,
    random,
    reference_gaps,
    region_means,
    swap,
)

LOG_2 = math.log(2)
ONLY_PATCH = GranDPOOptions(lambda_clip=0, lambda_patch=1, lambda_anchor=0, beta_patch=3)


def gran_dpo_loss(
    errors: PairErrors, margins: Margins, timestep_weight: Tensor, options: GranDPOOptions
) -> tuple[Tensor, dict[str, Tensor]]:
    return make_objective(options).loss(errors, margins, timestep_weight)


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("beta", [0.3, 5000.0])
def test_a_policy_that_equals_its_reference_gives_log_2_per_term(power: float, beta: float) -> None:
    chosen, rejected = random(2, B, T, H, W)
    options = GranDPOOptions(beta_clip=beta, beta_patch=beta, margin_power_patch=power)
    margins = make_margins()
    loss, metrics = gran_dpo_loss(
        PairErrors(chosen, rejected, chosen, rejected, *2 * [torch.zeros_like(chosen)]), margins, random(B), options
    )
    torch.testing.assert_close(metrics["loss/clip"], LOG_2 * ones)
    torch.testing.assert_close(metrics["loss/patch"], LOG_2 * ones)
    anchor = metrics["loss/anchor"]
    preferences = LOG_2 * (options.lambda_clip + options.lambda_patch)
    torch.testing.assert_close(loss, preferences + options.lambda_anchor * anchor)
    assert metrics["rewards/margins"].tolist() == [0, 0]
    assert metrics["rewards/accuracies"].tolist() == [0.5, 0.5]
    torch.testing.assert_close(metrics["rewards/patch_accuracies"], 0.5 * ones)


def test_swapping_the_pair_negates_the_clip_logits_and_keeps_what_patches_prefer() -> None:
    errors, margins = make_errors(), make_margins()
    swapped = swap(errors)
    options = GranDPOOptions(beta_clip=3, beta_patch=3)
    _, before = gran_dpo_loss(errors, margins, ones, options)
    _, after = gran_dpo_loss(swapped, Margins(margins.clip, -margins.patches), ones, options)
    torch.testing.assert_close(after["rewards/margins"], -before["rewards/margins"])
    torch.testing.assert_close(after["rewards/accuracies"], 1 - before["rewards/accuracies"])
    # softplus(x) - softplus(-x) = x
    torch.testing.assert_close(after["loss/clip"] - before["loss/clip"], before["rewards/margins"])
    for name in ("loss/patch", "loss/anchor", "rewards/patch_accuracies"):
        torch.testing.assert_close(after[name], before[name])
    torch.testing.assert_close(after["errors/chosen"], before["errors/rejected"])


@pytest.mark.parametrize("lambdas", [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_one_patch_is_diffusion_dpo(lambdas: tuple[float, float]) -> None:
    """-log sigmoid(-b / 2 * (policy gap - reference gap)) of mean squared errors, arXiv 2311.12908, equation 14."""
    beta = 40.0
    predictions = random(4, B, C, T, H, W)
    targets = random(2, B, C, T, H, W, seed=1)
    mean = [((p - targets[i % 2]) ** 2).mean((1, 2, 3, 4)).numpy() for i, p in enumerate(predictions)]
    expected = minus_log_sigmoid(-beta / 2 * ((mean[0] - mean[2]) - (mean[1] - mean[3])))
    options = GranDPOOptions(
        lambda_clip=lambdas[0],
        lambda_patch=lambdas[1],
        lambda_anchor=0,
        beta_clip=beta / 2,
        beta_patch=beta / 2,
        margin_power_patch=1,
    )
    margins = Margins(random(B), random(B, 1, 1, 1, seed=2) + 0.1)
    errors = PairErrors(
        *(squared_error_map(p, targets[i % 2]).double() for i, p in enumerate(predictions)),
        *(squared_error_map(predictions[i], predictions[i + 2]).double() for i in (0, 1)),
    )
    loss, _ = gran_dpo_loss(errors, margins, ones, options)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-5)


def test_a_grid_in_time_alone_is_a_preference_per_latent_frame() -> None:
    errors = make_errors()
    margins = make_margins((T, 1, 1))
    options = ONLY_PATCH.model_copy(update={"margin_power_patch": 0})
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
        lambda_clip=0.7,
        lambda_patch=1.3,
        lambda_anchor=0.4,
        beta_clip=2,
        beta_patch=5,
        margin_power_clip=1.5,
        margin_power_patch=2,
        tie=0.05,
    )
    loss, metrics = gran_dpo_loss(errors, margins, level, options)
    assert loss.shape == (B,)

    gap = reference_gaps(errors)
    z_clip = -2 * level.numpy() * gap.flatten(1).mean(1).numpy()
    z_patch = -5 * level.numpy()[:, None, None, None] * region_means(gap, grid)
    margin = margins.patches.numpy()
    weights = np.where(abs(margin) > 0.05, margin**2, 0)
    weights /= weights.sum((1, 2, 3), keepdims=True)
    winner = np.where(margin > 0, region_means(errors.chosen, grid), region_means(errors.rejected, grid))
    clip = margins.clip.numpy() ** 1.5 * minus_log_sigmoid(z_clip)
    patch = (weights * minus_log_sigmoid(np.sign(margin) * z_patch)).sum((1, 2, 3))
    anchor = (weights * winner).sum((1, 2, 3))
    np.testing.assert_allclose(loss.numpy(), 0.7 * clip + 1.3 * patch + 0.4 * anchor, rtol=1e-6)
    for name, term in (("clip", clip), ("patch", patch), ("anchor", anchor)):
        np.testing.assert_allclose(metrics[f"loss/{name}"].numpy(), term, rtol=1e-6)
    agree = (weights * (margin * z_patch > 0)).sum((1, 2, 3))
    np.testing.assert_allclose(metrics["rewards/patch_accuracies"].numpy(), agree, rtol=1e-6)


def test_each_pair_has_a_loss_of_its_own() -> None:
    errors, margins, level = make_errors(), make_margins(), random(B, seed=5)
    together, _ = gran_dpo_loss(errors, margins, level, GranDPOOptions())
    for i in range(B):
        own = PairErrors(*(getattr(errors, field.name)[i : i + 1] for field in dataclasses.fields(errors)))
        part = Margins(margins.clip[i : i + 1], margins.patches[i : i + 1])
        alone, _ = gran_dpo_loss(own, part, level[i : i + 1], GranDPOOptions())
        torch.testing.assert_close(alone, together[i : i + 1])
    assert not torch.isclose(together[0], together[1])


def test_a_tied_patch_has_no_say() -> None:
    grid = (1, 1, 11)  # one column of cells per patch
    errors, margins = make_errors(), make_margins(grid)
    margins.patches.add_(0.1 * margins.patches.sign())[..., 3] = 0.05
    options = ONLY_PATCH.model_copy(update={"tie": 0.05, "lambda_anchor": 1})
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


def test_a_step_moves_each_patch_towards_the_clip_it_prefers() -> None:
    grid = PatchGrid(1, 1, 2)
    targets = random(2, B, C, T, H, 8)
    predictions = random(2, B, C, T, H, 8, seed=1).requires_grad_()
    start = [squared_error_map(predictions[side].detach(), targets[side]) for side in (0, 1)]
    margins = Margins(torch.ones(B), torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 2).expand(B, -1, -1, -1))
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
    options = GranDPOOptions(lambda_clip=0.5, beta_clip=6, beta_patch=8, lambda_anchor=0)
    halved = GranDPOOptions(lambda_clip=0.5, beta_clip=3, beta_patch=4, lambda_anchor=0)
    loss, _ = gran_dpo_loss(errors, margins, level, options)
    expected, _ = gran_dpo_loss(errors, margins, ones, halved)
    torch.testing.assert_close(loss[1], expected[1])
    torch.testing.assert_close(loss[0], 1.5 * LOG_2 * ones[0])


def test_metrics_tell_errors_against_the_reference() -> None:
    errors = make_errors()
    _, metrics = gran_dpo_loss(errors, make_margins(), ones, GranDPOOptions(beta_clip=50))
    chosen = (errors.chosen - errors.ref_chosen).flatten(1).mean(1)
    rejected = (errors.rejected - errors.ref_rejected).flatten(1).mean(1)
    torch.testing.assert_close(metrics["errors/chosen"], chosen)
    torch.testing.assert_close(metrics["errors/rejected"], rejected)
    torch.testing.assert_close(metrics["rewards/margins"], -50 * (chosen - rejected))
    assert metrics["rewards/accuracies"].tolist() == (chosen < rejected).double().tolist()
    assert all(value.shape == (B,) for value in metrics.values())


def test_enormous_logits_stay_finite() -> None:
    errors, margins = make_errors(), make_margins()
    options = GranDPOOptions(beta_clip=1e6, beta_patch=1e6)
    errors.chosen.requires_grad_()
    loss, _ = gran_dpo_loss(errors, margins, ones, options)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert errors.chosen.grad is not None and torch.isfinite(errors.chosen.grad).all()


@pytest.mark.parametrize("field", sorted(GranDPOOptions.model_fields.keys() - {"name", "clip_region", "patch_signs"}))
def test_no_option_may_be_negative(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        GranDPOOptions(**{field: -0.1})


@pytest.mark.parametrize("field", ["beta_clip", "beta_patch"])
def test_beta_must_be_positive(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        GranDPOOptions(**{field: 0})


def test_an_unknown_option_is_refused() -> None:
    unknown = {"beta_pach": 3.0}
    with pytest.raises(ValidationError, match="beta_pach"):
        GranDPOOptions(**unknown)


def test_sft_is_plain_denoising_of_the_chosen_clip() -> None:
    errors = make_errors()
    options = GranDPOOptions(lambda_clip=0, lambda_patch=0, lambda_anchor=0, lambda_sft=3)
    loss, _ = gran_dpo_loss(errors, make_margins(), ones, options)
    torch.testing.assert_close(loss, 3 * errors.chosen.mean((1, 2, 3)))


def test_the_log_tells_displacement_of_the_winning_patches_and_drift() -> None:
    errors = make_errors(seed=7)
    margins = make_margins()
    _, metrics = gran_dpo_loss(errors, margins, ones, ONLY_PATCH)
    gaps = [
        region_means(cells, GRID)
        for cells in (errors.chosen - errors.ref_chosen, errors.rejected - errors.ref_rejected)
    ]
    weights = patch_weights(margins.patches, power=1, tie=0).numpy()
    expected = (weights * np.where(margins.patches.numpy() > 0, *gaps)).sum((1, 2, 3))
    np.testing.assert_allclose(metrics["errors/winning_patches"].numpy(), expected, rtol=1e-9)
    drift = (errors.drift_chosen.mean((1, 2, 3)) + errors.drift_rejected.mean((1, 2, 3))) / 2
    torch.testing.assert_close(metrics["errors/drift"], drift)


@pytest.mark.parametrize("grid", [GRID, (3, 2, 2)])
def test_one_mask_per_pair_compares_the_patches_that_differ(grid: tuple[int, int, int]) -> None:
    errors, margins = make_errors(), make_margins(grid)
    options = GranDPOOptions(lambda_patch=0, lambda_anchor=0, tie=0.2, beta_clip=3, clip_region="differing")
    loss, _ = gran_dpo_loss(errors, margins, ones, options)
    mask = np.abs(margins.patches.numpy()) > 0.2
    gaps = region_means(reference_gaps(errors), grid)
    logits = -3 * (gaps * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    assert 0 < mask.mean() < 1
    np.testing.assert_allclose(loss.numpy(), minus_log_sigmoid(logits))
    tied = options.model_copy(update={"tie": 1.0})
    torch.testing.assert_close(gran_dpo_loss(errors, margins, ones, tied)[0], LOG_2 * ones)


def test_a_mask_of_everything_is_the_whole_clip() -> None:
    errors, margins = make_errors(), make_margins((5, 7, 11))
    plain = GranDPOOptions(lambda_patch=0, lambda_anchor=0)
    masked = plain.model_copy(update={"clip_region": "differing"})
    torch.testing.assert_close(
        gran_dpo_loss(errors, margins, ones, masked)[0], gran_dpo_loss(errors, margins, ones, plain)[0]
    )


def test_with_the_signs_of_the_clip_all_patches_prefer_its_winner() -> None:
    errors, margins = make_errors(), make_margins()
    saliency = ONLY_PATCH.model_copy(update={"patch_signs": "clip"})
    loss, _ = gran_dpo_loss(errors, margins, ones, saliency)
    positive = Margins(margins.clip, margins.patches.abs())
    torch.testing.assert_close(loss, gran_dpo_loss(errors, positive, ones, ONLY_PATCH)[0])
    assert not torch.allclose(loss, gran_dpo_loss(errors, margins, ones, ONLY_PATCH)[0])
    with_anchor = saliency.model_copy(update={"lambda_patch": 0, "lambda_anchor": 1})
    weights = patch_weights(margins.patches, 1.0, 0.0)
    expected = (weights.numpy() * region_means(errors.chosen, GRID)).sum((1, 2, 3))
    np.testing.assert_allclose(gran_dpo_loss(errors, margins, ones, with_anchor)[0].numpy(), expected)
