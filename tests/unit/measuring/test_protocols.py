"""VideoScore's protocol, by hand and against a computation written from its description."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halovid.measuring import protocols
from halovid.store.errors import InputError

QUARTERS = st.integers(4, 16).map(lambda value: value / 4)  # coarse, so that ties and equal means happen
ROWS = st.lists(st.tuples(*[QUARTERS] * 5), min_size=1, max_size=12)


def ranks(values: list[float]) -> list[float]:
    """Average ranks: how many are smaller, and half of the others that are equal."""
    return [sum(o < v for o in values) + (sum(o == v for o in values) - 1) / 2 for v in values]


def columns(rows: list[tuple[float, ...]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def correlation(x: list[float], y: list[float]) -> float | None:
    """Pearson's correlation of the ranks, in percent."""
    a, b = ranks(x), ranks(y)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True))
    spread = sum((p - mean_a) ** 2 for p in a) * sum((q - mean_b) ** 2 for q in b)
    return None if spread == 0 else 100 * covariance / spread**0.5


@given(
    st.integers(2, 20).flatmap(lambda n: st.tuples(*[st.lists(st.tuples(*[QUARTERS] * 3), min_size=n, max_size=n)] * 2))
)
def test_spearman_is_the_correlation_of_ranks_by_aspect(both: tuple[list, list]) -> None:
    scores, ratings = both
    expected = [correlation(a, b) for a, b in zip(columns(scores), columns(ratings), strict=True)]
    found = protocols.spearman_by_aspect(scores, ratings)
    for own, other in zip(found, expected, strict=True):
        assert (own is None) == (other is None)
        assert own is None or own == pytest.approx(other, abs=6e-5)  # rounded to four digits


def test_spearman_by_hand() -> None:
    # first aspect: same order; second: reversed; third: constant; fourth: one swap of neighbours, 1 - 6 * 2 / (4 * 15)
    scores = [[1.1, 4, 2, 1], [1.2, 3, 2, 3], [1.3, 2, 2, 2], [9.0, 1, 2, 4]]
    ratings = [[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3], [4, 4, 4, 4]]
    assert protocols.spearman_by_aspect(scores, ratings) == [100.0, -100.0, None, 80.0]


@pytest.mark.parametrize(
    ("left", "right", "votes", "expected"),
    [
        (2.0, 1.9, (1, 0), True),  # however small the difference
        (1.9, 2.0, (1, 0), False),
        (2.0, 2.0, (1, 0), False),  # equal scores prefer nobody
        (2.0, 2.0, (0, 1), False),
        (1.0, 3.0, (0, 1), True),
        (2.0, 2.49, (0.5, 0.5), True),
        (2.0, 2.5, (0.5, 0.5), False),  # the rule is less than a half, not at most
        (2.5, 2.0, (0, 0), False),
        (3.0, 3.0, (0, 0), True),
    ],
)
def test_the_rule_of_a_pair(left: float, right: float, votes: tuple[float, float], expected: bool) -> None:
    assert protocols.prefers_rightly(left, right, *votes) is expected


VOTES = st.sampled_from([(1, 0), (0, 1), (0.5, 0.5), (0, 0)])


@given(st.lists(st.tuples(st.tuples(*[QUARTERS] * 5), st.tuples(*[QUARTERS] * 5), VOTES), min_size=1, max_size=15))
def test_genai_bench_counts_right_pairs(pairs: list) -> None:
    for exclude in (False, True):
        own = [pair for pair in pairs if not exclude or pair[2][0] != pair[2][1]]
        if not own:
            with pytest.raises(ValueError, match="none of"):
                protocols.genai_bench_accuracy(*zip(*pairs, strict=True), exclude_ties=exclude)
            continue
        right, by_aspect = 0, [0] * 5
        for left, other, (for_left, for_right) in own:

            def good(a: float, b: float, sign: float = for_left - for_right) -> bool:
                return abs(a - b) < 0.5 if sign == 0 else (a - b) * sign > 0

            right += good(sum(left) / 5, sum(other) / 5)
            for k in range(5):
                by_aspect[k] += good(left[k], other[k])
        found = protocols.genai_bench_accuracy(*zip(*pairs, strict=True), exclude_ties=exclude)
        assert found.num_pairs == len(own)
        assert found.mean == round(right / len(own), 4)
        assert found.aspects == tuple(round(count / len(own), 4) for count in by_aspect)


def test_vbench_counts_an_aspect_only_where_the_mean_is_right() -> None:
    left, right = [[3.0, 1.0], [3.0, 1.0], [2.0, 2.0]], [[1.0, 2.0], [4.0, 0.5], [2.2, 2.2]]
    # means 2 > 1.5, 2 < 2.25, 2 ~ 2.2; people prefer left, left, neither
    votes = [1.0, 1.0, 0.5]
    found = protocols.vbench_accuracy(left, right, votes)
    assert found == protocols.PairAccuracy(mean=0.6667, aspects=(0.6667, 0.3333), num_pairs=3)
    # the second pair is wrong by the mean, so its right second aspect does not count, as it does in GenAI-Bench
    plain = protocols.genai_bench_accuracy(left, right, [(1, 0), (1, 0), (0.5, 0.5)])
    assert plain.aspects == (0.6667, 0.6667)
    assert protocols.vbench_accuracy(left, right, votes, exclude_ties=True).num_pairs == 2


def test_halves_of_the_last_digit_are_rounded_as_the_published_scripts_do() -> None:
    # 111 of 480 pairs are right: 0.23125, which Python rounds up and numpy down
    left, right = [[2.0]] * 480, [[1.0]] * 111 + [[3.0]] * 369
    assert protocols.genai_bench_accuracy(left, right, [(1, 0)] * 480).mean == 0.2313


@given(st.lists(st.tuples(st.tuples(*[QUARTERS] * 5), st.tuples(*[QUARTERS] * 5), VOTES), min_size=1, max_size=10))
def test_swapping_the_sides_changes_nothing(pairs: list) -> None:
    left, right, votes = zip(*pairs, strict=True)
    swapped = protocols.genai_bench_accuracy(right, left, [vote[::-1] for vote in votes])
    assert protocols.genai_bench_accuracy(left, right, votes) == swapped


def test_answers_of_the_published_scripts_are_read_without_running_them(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "t", "ref": "[1, 4]", "ans": "[1.5, 3.25]"},
        {"id": "a", "ref": "[1, 4]", "ans": "[2, 3]"},
    ]
    path = tmp_path / "eval_video_feedback_x.json"
    path.write_text(json.dumps(rows))
    assert protocols.read_answers(path) == {"a": ([2.0, 3.0], [1.0, 4.0])}
    path.write_text(json.dumps([{"id": "a", "ref": "[1]", "ans": "__import__('os').getcwd()"}]))
    with pytest.raises(InputError, match="no list of answers"):
        protocols.read_answers(path)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    scores = np.zeros((3, 5))
    for left, right, votes in itertools.product((scores, scores[:2]), (scores, scores[:, :4]), (scores[:, :2], scores)):
        if left.shape == right.shape and votes.shape == (len(left), 2):
            continue
        with pytest.raises(ValueError, match="must both be"):
            protocols.genai_bench_accuracy(left, right, votes)
