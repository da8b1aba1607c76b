"""Agreement and intervals, against brute force and closed forms."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from halovid.maths import statistics

Arguments = tuple[object, ...]
# few distinct values, so that ties are common
tied_pairs = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=23)
agreements = [statistics.spearman, statistics.kendall, statistics.pairwise_accuracy]


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _same(value: float, expected: float) -> bool:
    return value == pytest.approx(expected, abs=1e-12, nan_ok=True)


def _pair_signs(values: list[tuple[int, int]]) -> list[tuple[int, int]]:
    signs = []
    for (score, truth), (other_score, other_truth) in itertools.combinations(values, 2):
        signs.append((int(np.sign(score - other_score)), int(np.sign(truth - other_truth))))
    return signs


@given(tied_pairs)
def test_kendall_is_tau_b(values: list[tuple[int, int]]) -> None:
    signs = _pair_signs(values)
    agreement = sum(score * truth for score, truth in signs)
    scale = math.sqrt(sum(score != 0 for score, _ in signs) * sum(truth != 0 for _, truth in signs))
    assert _same(statistics.kendall(*zip(*values, strict=True)), agreement / scale if scale else math.nan)


@given(tied_pairs)
def test_spearman_is_the_correlation_of_mean_ranks(values: list[tuple[int, int]]) -> None:
    def ranks(side: tuple[int, ...]) -> np.ndarray:
        below = [sum(other < value for other in side) for value in side]
        equal = [sum(other == value for other in side) for value in side]
        return np.array(below) + np.array(equal) / 2

    first, second = (ranks(side) - ranks(side).mean() for side in zip(*values, strict=True))
    scale = math.sqrt((first**2).sum() * (second**2).sum())
    expected = (first * second).sum() / scale if scale else math.nan
    assert _same(statistics.spearman(*zip(*values, strict=True)), expected)


@given(tied_pairs)
def test_pairwise_accuracy_counts_the_pairs_that_the_truth_orders(values: list[tuple[int, int]]) -> None:
    won = [(1 + score * truth) / 2 for score, truth in _pair_signs(values) if truth]
    expected = sum(won) / len(won) if won else math.nan
    scores, truth = zip(*values, strict=True)
    assert _same(statistics.pairwise_accuracy(scores, truth), expected)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=23))
def test_auroc_is_the_chance_that_a_positive_wins(values: list[tuple[int, bool]]) -> None:
    positives = [score for score, positive in values if positive]
    negatives = [score for score, positive in values if not positive]
    duels = [(1 + np.sign(p - n)) / 2 for p in positives for n in negatives]
    expected = sum(duels) / len(duels) if duels else math.nan
    assert _same(statistics.auroc(*zip(*values, strict=True)), expected)


@pytest.mark.parametrize("agreement", agreements)
def test_perfect_and_reversed_order_on_any_shape(agreement: Callable[..., float]) -> None:
    truth = np.random.default_rng(0).normal(size=(3, 5, 7))
    worst = 0.0 if agreement is statistics.pairwise_accuracy else -1.0
    assert agreement(np.exp(truth), truth) == pytest.approx(1)  # only the order matters
    assert agreement(-(truth**3), truth) == pytest.approx(worst)


@pytest.mark.parametrize("agreement", [statistics.spearman, statistics.kendall])
def test_a_constant_side_has_no_correlation(agreement: Callable[..., float]) -> None:
    assert math.isnan(agreement([2, 2, 2], [1, 2, 3]))
    assert math.isnan(agreement([1, 2, 3], [2, 2, 2]))
    assert math.isnan(agreement([1], [2]))
    assert math.isnan(agreement([], []))


@pytest.mark.parametrize("agreement", [*agreements, statistics.auroc])
def test_agreement_refuses_what_does_not_match(agreement: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        agreement(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="2 of 5 values are NaN"):
        agreement([1, math.nan, 3, 4, 5], [0, 1, 1, math.nan, 0])


def test_infinite_scores_keep_their_rank() -> None:
    scores, truth = [-math.inf, 0.0, 1.0, math.inf], [0, 0, 1, 1]
    assert statistics.auroc(scores, truth) == statistics.pairwise_accuracy(scores, truth) == 1


def test_auroc_of_a_million_values_has_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(1_000_000) < 0.3
    scores = rng.normal(size=positive.size) + positive
    assert statistics.auroc(scores, positive) == pytest.approx(special.ndtr(math.sqrt(0.5)), abs=0.003)


def test_auroc_needs_binary_labels() -> None:
    with pytest.raises(ValueError, match=r"from 0\.0 to 2\.0.*threshold"):
        statistics.auroc([1, 2, 3], [0, 1, 2])


def test_pairwise_tie_widens_what_counts_as_equal() -> None:
    truth = [0, 2, 5, 11]
    scores = [1, 0, 2, 3]  # wrong only on the pair (0, 2)
    assert statistics.pairwise_accuracy(scores, truth, tie=1.9) == 5 / 6
    assert statistics.pairwise_accuracy(scores, truth, tie=2) == 1
    assert math.isnan(statistics.pairwise_accuracy(scores, truth, tie=11))
    with pytest.raises(ValueError, match="tie is -1"):
        statistics.pairwise_accuracy(scores, truth, tie=-1)


def test_the_chunk_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 7, size=(2, 101))

    def results() -> tuple[float, statistics.Interval]:
        interval = statistics.paired_ratio(scores, truth + 1, num_resamples=500)
        return statistics.pairwise_accuracy(scores, truth, tie=1), interval

    whole = results()
    monkeypatch.setattr(statistics, "_CHUNK", 211)
    assert results() == whole


def test_bootstrap_agrees_with_normal_theory() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(499, 5))
    interval = statistics.bootstrap(values, level=0.9)
    means = values.mean(1)
    half = stats.norm.ppf(0.95) * means.std() / math.sqrt(len(means))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_prompts_are_resampled_not_samples() -> None:
    values = np.random.default_rng(0).normal(size=23)
    repeated = np.repeat(values[:, None], 11, axis=1)  # eleven alike samples bring no information
    one, many = statistics.bootstrap(values), statistics.bootstrap(repeated)
    assert (many.low, many.mean, many.high) == pytest.approx((one.low, one.mean, one.high))


def test_pairing_cancels_what_is_hard_about_a_prompt() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.integers(-(2**20), 2**20, size=(31, 1)).astype(float)
    base, aligned = rng.integers(0, 5, size=(2, 31, 4)) / 4
    paired = statistics.paired_bootstrap(base + difficulty, aligned + difficulty)
    assert paired == statistics.bootstrap(aligned.mean(1) - base.mean(1))
    assert paired.mean == pytest.approx(aligned.mean() - base.mean())


def test_both_sides_may_differ_in_samples_per_prompt() -> None:
    rng = np.random.default_rng(0)
    base, aligned = rng.random((7, 2)), rng.random((7, 5))
    difference = statistics.paired_bootstrap(base, aligned, num_resamples=500)
    ratio = statistics.paired_ratio(base, aligned, num_resamples=500)
    assert difference.low < difference.mean < difference.high
    assert difference.mean == pytest.approx(aligned.mean() - base.mean())
    assert ratio.low < ratio.mean < ratio.high
    assert ratio.mean == pytest.approx(1 - aligned.mean() / base.mean())


def test_swapping_the_sides_mirrors_the_interval() -> None:
    base, aligned = np.random.default_rng(0).random((2, 11, 3))
    forth, back = statistics.paired_bootstrap(base, aligned), statistics.paired_bootstrap(aligned, base)
    assert (back.low, back.mean, back.high) == pytest.approx((-forth.high, -forth.mean, -forth.low))


def test_a_proportional_change_has_an_exact_ratio_in_any_unit() -> None:
    base = np.random.default_rng(0).exponential(size=(13, 3))
    interval = statistics.paired_ratio(base, base / 4)
    assert (interval.low, interval.mean, interval.high) == pytest.approx((0.75, 0.75, 0.75))
    aligned = base[::-1] / 4
    assert statistics.paired_ratio(1024 * base, 1024 * aligned) == statistics.paired_ratio(base, aligned)


def test_the_seed_fixes_the_interval_and_the_level_its_width() -> None:
    values = np.random.default_rng(0).normal(size=29)
    assert statistics.bootstrap(values, seed=5) == statistics.bootstrap(values, seed=5)
    assert statistics.bootstrap(values, seed=5) != statistics.bootstrap(values, seed=6)
    narrow, wide = statistics.bootstrap(values, level=0.5), statistics.bootstrap(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_alike_prompts_have_an_interval_of_no_width() -> None:
    assert statistics.bootstrap([0.5, 0.5, 0.5]) == statistics.Interval(0.5, 0.5, 0.5)


def test_a_base_that_is_nearly_always_zero_bounds_no_ratio() -> None:
    interval = statistics.paired_ratio([0, 0, 0, 0, 1], [0, 0, 0, 0, 0.5])
    assert interval.mean == 0.5
    assert math.isnan(interval.low) and math.isnan(interval.high)


def test_missing_prompts_are_counted() -> None:
    values = np.ones((7, 3))
    values[2, 1] = values[5, 0] = math.nan
    for measure in (statistics.paired_bootstrap, statistics.paired_ratio):
        with pytest.raises(ValueError, match="2 of 7 prompts in aligned"):
            measure(np.ones(7), values)
    with pytest.raises(ValueError, match="2 of 7 prompts in values"):
        statistics.bootstrap(values)


@pytest.mark.parametrize(
    ("measure", "arguments", "message"),
    [
        (statistics.bootstrap, ([1.0],), "got 1 prompts.*at least two"),
        (statistics.bootstrap, ([],), r"shape \(0,\).*num_prompts"),
        (statistics.bootstrap, (np.ones((2, 3, 5)),), r"shape \(2, 3, 5\)"),
        (statistics.bootstrap, ([1.0, 2.0], 100, 1.0), "level is 1.0.*between 0 and 1"),
        (statistics.paired_bootstrap, (np.ones(2), np.ones(3)), "base has 2 prompts and aligned 3"),
        (statistics.paired_ratio, ([1.0, 2.0], [1.0, -3.0]), "smallest value is -3"),
        (statistics.paired_ratio, ([0.0, 0.0], [1.0, 3.0]), "zero everywhere"),
    ],
)
def test_errors_say_what_came(measure: Callable[..., object], arguments: Arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(*arguments)
