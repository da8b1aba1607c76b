"""Betas that follow the training."""

from __future__ import annotations

import math

import pytest
import torch

from halovid.config.objectives import GranDPOOptions
from halovid.training.objectives import make_objective
from halovid.training.objectives.adaptive_beta import AdaptiveBeta
from tiny_pairs import make_errors, make_margins, ones


def test_a_gap_of_the_mean_size_is_met_with_the_target_probability() -> None:
    beta = AdaptiveBeta(5.0, target=0.8)
    for _ in range(200):
        beta.observe(0.2)
    assert 1 / (1 + math.exp(-beta.value * 0.2)) == pytest.approx(0.8)
    beta.observe(1.2)
    assert beta.mean_gap == pytest.approx(0.9 * 0.2 + 0.1 * 1.2)


def test_it_stays_at_its_start_until_the_policy_has_moved_and_without_a_target() -> None:
    moving, fixed = AdaptiveBeta(5.0, target=0.8), AdaptiveBeta(5.0, target=None)
    moving.observe(0.0)
    fixed.observe(0.3)
    assert moving.value == fixed.value == 5.0
    moving.observe(1e-9)
    assert moving.value == 500.0, "a hundred times its start at most"


def test_gran_dpo_uses_what_it_has_observed_and_keeps_it() -> None:
    errors, margins = make_errors(), make_margins()
    objective = make_objective(GranDPOOptions(target_accuracy=0.7))
    _, metrics = objective.loss(errors, margins, ones)
    objective.observe({name: value.mean().item() for name, value in metrics.items()})
    later, after = objective.loss(errors, margins, ones)
    logit = math.log(0.7 / 0.3)
    assert after["rewards/margins"].abs().mean().item() == pytest.approx(logit)
    assert torch.equal(after["gaps/clip"], metrics["gaps/clip"]), "gaps know nothing of beta"

    continued = make_objective(GranDPOOptions(target_accuracy=0.7))
    continued.load_state_dict(objective.state_dict())
    assert torch.equal(continued.loss(errors, margins, ones)[0], later)
    plain = make_objective(GranDPOOptions())
    before, _ = plain.loss(errors, margins, ones)
    plain.observe({name: value.mean().item() for name, value in metrics.items()})
    assert torch.equal(plain.loss(errors, margins, ones)[0], before)
