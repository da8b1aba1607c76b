"""What every objective must do, and which terms it computes."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
import torch

from halovid.config.objectives import GranDPOOptions, NftOptions, ObjectiveOptions, SftOptions
from halovid.config.recipes import make_config
from halovid.maths.losses import Margins, PairErrors
from halovid.training.objectives import GROUP_OBJECTIVES, OBJECTIVES, Needs, make_objective
from tiny_pairs import B, make_errors, make_margins, ones, random

EVERY = [
    GranDPOOptions(),
    GranDPOOptions(lambda_sft=4),
    GranDPOOptions(lambda_drift=2, tie=0.5),
    GranDPOOptions(clip_region="differing", patch_signs="clip", tie=0.1),
    GranDPOOptions(lambda_patch=0, lambda_anchor=0),
    GranDPOOptions(lambda_clip=0, lambda_patch=0),
    SftOptions(),
    NftOptions(),
]
every_objective = pytest.mark.parametrize("options", EVERY, ids=lambda options: repr(options)[:60])


def without(errors: PairErrors, needs: Needs) -> PairErrors:
    """The errors as a training gives them: NaN where no prediction is made."""
    absent = {"rejected", "ref_rejected", "drift_rejected"} if not needs.rejected else set()
    absent |= {"ref_chosen", "ref_rejected", "drift_chosen", "drift_rejected"} if not needs.reference else set()
    return dataclasses.replace(errors, **{name: torch.full_like(errors.chosen, torch.nan) for name in absent})


def test_every_objective_of_the_recipes_is_there_under_its_name() -> None:
    names = [get_args(section.model_fields["name"].annotation) for section in get_args(ObjectiveOptions)]
    assert names == [(name,) for name in [*OBJECTIVES, *GROUP_OBJECTIVES]]
    for name in OBJECTIVES:
        config = make_config({"align": {"objective": {"name": name}}})
        assert isinstance(make_objective(config.align.objective), OBJECTIVES[name])


@every_objective
def test_a_loss_per_pair_of_what_was_asked_for_alone(options: Any) -> None:
    objective = make_objective(options)
    errors = without(make_errors(), objective.needs)
    errors.chosen.requires_grad_()
    loss, metrics = objective.loss(errors, make_margins(), random(B))
    assert loss.shape == (B,) and loss.isfinite().all()
    assert all(value.shape == (B,) for value in metrics.values())
    loss.sum().backward()
    assert errors.chosen.grad is not None and errors.chosen.grad.isfinite().all() and errors.chosen.grad.any()


@every_objective
def test_pairs_do_not_know_of_each_other_and_nothing_is_changed(options: Any) -> None:
    objective, margins, weight = make_objective(options), make_margins(), random(B, seed=3)
    errors = without(make_errors(), objective.needs)
    before = [value.clone() for value in (*dataclasses.astuple(errors), *dataclasses.astuple(margins), weight)]
    loss, metrics = objective.loss(errors, margins, weight)
    turned = objective.loss(
        PairErrors(*(value.flip(0) for value in dataclasses.astuple(errors))),
        Margins(margins.clip.flip(0), margins.patches.flip(0)),
        weight.flip(0),
    )
    torch.testing.assert_close(turned[0].flip(0), loss)
    for name, value in metrics.items():
        torch.testing.assert_close(turned[1][name].flip(0), value, equal_nan=True)
    after = (*dataclasses.astuple(errors), *dataclasses.astuple(margins), weight)
    for first, second in zip(before, after, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "terms", "needs"),
    [
        ({}, {"clip", "patch", "anchor"}, Needs(rejected=True, reference=True)),
        ({"lambda_sft": 4}, {"clip", "patch", "anchor", "sft"}, Needs(rejected=True, reference=True)),
        ({"lambda_patch": 0, "lambda_anchor": 0}, {"clip"}, Needs(rejected=True, reference=True)),
        ({"lambda_clip": 0, "lambda_anchor": 0}, {"patch"}, Needs(rejected=True, reference=True)),
        ({"lambda_clip": 0, "lambda_patch": 0}, {"anchor"}, Needs(rejected=True)),
        ({"lambda_clip": 0, "lambda_patch": 0, "lambda_anchor": 0, "lambda_sft": 1}, {"sft"}, Needs()),
        (
            {"lambda_clip": 0, "lambda_patch": 0, "lambda_drift": 1},
            {"anchor", "drift"},
            Needs(rejected=True, reference=True),
        ),
    ],
)
def test_a_term_of_weight_0_is_neither_computed_nor_logged(
    changes: dict[str, float], terms: set[str], needs: Needs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {"clip", "patch", "anchor", "sft", "drift"} - terms:
        monkeypatch.setattr(f"halovid.training.objectives.gran_dpo.{name}_term", None)
    objective = make_objective(GranDPOOptions(**changes))
    assert objective.needs == needs
    _, metrics = objective.loss(make_errors(), make_margins(), ones)
    assert {name for name in metrics if name.startswith("loss/")} == {f"loss/{term}" for term in terms}
    assert ("rewards/accuracies" in metrics, "rewards/patch_accuracies" in metrics) == (
        "clip" in terms,
        "patch" in terms,
    )


def test_the_weighted_sum_is_that_of_its_terms() -> None:
    options = GranDPOOptions(lambda_clip=0.5, lambda_patch=2, lambda_anchor=3, lambda_sft=4, lambda_drift=5, tie=0.5)
    loss, metrics = make_objective(options).loss(make_errors(), make_margins(), ones)
    terms = {"clip": 0.5, "patch": 2, "anchor": 3, "sft": 4, "drift": 5}
    torch.testing.assert_close(loss, sum(weight * metrics[f"loss/{name}"] for name, weight in terms.items()))


def test_an_objective_without_a_term_is_refused() -> None:
    with pytest.raises(ValueError, match=r"every lambda_\* is 0"):
        GranDPOOptions(lambda_clip=0, lambda_patch=0, lambda_anchor=0)


def test_sft_alone_and_as_a_term_are_the_same() -> None:
    errors, margins = make_errors(), make_margins()
    alone, _ = make_objective(SftOptions()).loss(errors, margins, ones)
    options = GranDPOOptions(lambda_clip=0, lambda_patch=0, lambda_anchor=0, lambda_sft=1)
    torch.testing.assert_close(alone, make_objective(options).loss(errors, margins, ones)[0])
