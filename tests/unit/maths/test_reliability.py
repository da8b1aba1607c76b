"""Agreement of several raters, against published values, brute force and closed forms."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.maths import reliability, statistics

N = math.nan
# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]
# the example of three coders and fifteen units that the literature and its software repeat
THREE_CODERS = [
    [N, N, N, N, N, 3, 4, 1, 2, 1, 1, 3, 3, N, 3],
    [1, N, 2, 1, 3, 3, 4, 3, N, N, N, N, N, N, N],
    [N, N, 2, 1, 3, 4, 4, N, 2, 1, 1, 3, 3, N, 4],
]
quick = settings(max_examples=60, deadline=None, derandomize=True)
ratings_with_gaps = st.integers(2, 5).flatmap(
    lambda units: st.lists(
        st.lists(st.one_of(st.integers(1, 5), st.just(N)), min_size=units, max_size=units), min_size=2, max_size=4
    )
)
margin_pairs = st.lists(st.tuples(st.integers(-4, 4), st.integers(-1, 1)), min_size=1, max_size=23)


@pytest.mark.parametrize(
    ("ratings", "level", "published"),
    [
        (FOUR_OBSERVERS, "ordinal", 0.815),
        (FOUR_OBSERVERS, "interval", 0.849),
        (THREE_CODERS, "interval", 0.811),
    ],
)
def test_alpha_has_the_published_values(ratings: list[list[float]], level: reliability.Level, published: float) -> None:
    assert round(reliability.krippendorff_alpha(ratings, level), 3) == published


def brute_alpha(ratings: list[list[float]], level: str) -> float:
    """Alpha by its definition: the matrix of coincidences."""
    units = [[value for value in unit if not math.isnan(value)] for unit in zip(*ratings, strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    counts = Counter(value for unit in units for value in unit)
    total = sum(counts.values())

    def distance(a: float, b: float) -> float:
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(count for value, count in counts.items() if low <= value <= high)
        return (between - (counts[a] + counts[b]) / 2) ** 2

    observed = sum(distance(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2))
    expected = sum(distance(a, b) * counts[a] * counts[b] for a in counts for b in counts) / max(total - 1, 1)
    return 1 - observed / expected if expected else math.nan


@quick
@given(ratings_with_gaps, st.sampled_from(["interval", "ordinal"]))
def test_alpha_is_that_of_the_coincidences(ratings: list[list[float]], level: reliability.Level) -> None:
    expected = brute_alpha(ratings, level)
    assert reliability.krippendorff_alpha(ratings, level) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_alpha_is_one_for_equal_raters_and_near_zero_for_chance() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(1, 6, 4000).astype(float)
    assert reliability.krippendorff_alpha([one, one, one]) == pytest.approx(1, abs=1e-12)
    assert reliability.krippendorff_alpha([one + 1e9, one + 1e9]) == pytest.approx(1, abs=1e-12)
    assert abs(reliability.krippendorff_alpha([one, rng.permutation(one)])) < 0.05
    assert reliability.krippendorff_alpha([one, 6 - one]) < -0.9


@pytest.mark.parametrize("ratings", [[[1, N], [N, 2]], [[3, 3], [3, 3]], [[], []]])
def test_alpha_is_unknown_without_two_ratings_or_two_values(ratings: list[list[float]]) -> None:
    assert math.isnan(reliability.krippendorff_alpha(ratings))


@pytest.mark.parametrize("ratings", [[1, 2, 3], [[1, math.inf], [1, 2]]])
def test_alpha_refuses(ratings: list[float]) -> None:
    with pytest.raises(ValueError, match="ratings"):
        reliability.krippendorff_alpha(ratings)


def test_pointing_game_looks_at_the_worst_patch() -> None:
    scores = [[5, 1, 3], [1, 5, 5], [2, 2, 4], [1, 2, 3]]
    defective = [[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert reliability.pointing_game(scores, defective) == pytest.approx((1 + 0 + 0.5) / 3)
    assert math.isnan(reliability.pointing_game(scores[3:], defective[3:]))


def test_pointing_game_of_constant_scores_is_the_share_of_defects() -> None:
    defective = np.random.default_rng(1).random((17, 11)) < 0.3
    expected = defective[defective.any(1)].mean()
    assert reliability.pointing_game(np.ones((17, 11)), defective) == pytest.approx(expected)


@quick
@given(margin_pairs, st.integers(0, 5))
def test_accuracy_with_ties_counts_three_answers(pairs: list[tuple[int, int]], tie: int) -> None:
    called = [0 if abs(margin) <= tie else int(np.sign(margin)) for margin, _ in pairs]
    expected = np.mean([call == truth for call, (_, truth) in zip(called, pairs, strict=True)])
    best = reliability.tied_accuracy(*zip(*pairs, strict=True), tie=tie)
    assert best.accuracy == pytest.approx(expected)


@quick
@given(margin_pairs)
def test_the_best_tie_is_found(pairs: list[tuple[int, int]]) -> None:
    margins, truth = zip(*pairs, strict=True)
    best = reliability.tied_accuracy(margins, truth)
    fixed = [reliability.tied_accuracy(margins, truth, tie).accuracy for tie in range(5)]
    assert best.accuracy == pytest.approx(max(fixed))
    assert reliability.tied_accuracy(margins, truth, best.tie).accuracy == pytest.approx(best.accuracy)


@quick
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=11))
def test_accuracy_without_ties_is_that_of_all_pairs(values: list[tuple[int, int]]) -> None:
    pairs = list(itertools.combinations(values, 2))
    margins = [a[0] - b[0] for a, b in pairs]
    truth = [a[1] - b[1] for a, b in pairs]
    expected = statistics.pairwise_accuracy(*zip(*values, strict=True))
    assert reliability.preference_accuracy(margins, truth) == pytest.approx(expected, nan_ok=True)


def test_intervals_resample_groups() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(40), 10)
    values = rng.normal(size=40)[group] + 0.01 * rng.normal(size=400)

    def mean(units: np.ndarray) -> float:
        return float(values[units].mean())

    by_group = reliability.resampled_interval(mean, group)
    by_unit = reliability.resampled_interval(mean, np.arange(400))
    assert by_group.mean == by_unit.mean == pytest.approx(values.mean())
    assert by_group.low < by_group.mean < by_group.high
    # ten equal units in a group carry the news of one: the interval is sqrt(10) times as wide
    ratio = (by_group.high - by_group.low) / (by_unit.high - by_unit.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.2)
    assert by_group == reliability.resampled_interval(mean, group)


def test_intervals_are_unknown_with_one_group_or_a_measure_that_often_fails() -> None:
    one = reliability.resampled_interval(lambda units: 1.0, [7, 7, 7])
    assert (one.mean, math.isnan(one.low), math.isnan(one.high)) == (1.0, True, True)
    rare = reliability.resampled_interval(lambda units: 1.0 if 0 in units else N, np.arange(5))
    assert rare.mean == 1.0 and math.isnan(rare.low)
