"""How far raters agree: people, judges and reward models; numbers in, numbers out.

`maths.statistics` has the measures of one rater against the truth. Here are those with several raters, positions or
ties, and intervals for any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from halovid.maths.statistics import Interval

Array = NDArray[np.float64]
Level = Literal["interval", "ordinal"]

_DEFINED = 0.95  # share of the resamples in which a measure must exist for its interval to be given


@dataclass(frozen=True)
class TiedAccuracy:
    """Accuracy with ties, in 0..1, and the difference of scores up to which two of them count as a tie."""

    accuracy: float
    tie: float


def krippendorff_alpha(ratings: ArrayLike, level: Level = "interval") -> float:
    """Krippendorff's alpha: 1 is perfect agreement, 0 that of chance, below 0 is systematic disagreement.

    Both levels take n log n time: the ordinal distance of two values is the interval distance of their mean ranks.

    Args:
        ratings: [raters, units]; NaN where a rater left a unit out. Units with fewer than two ratings don't count.
        level: the distance of two ratings: interval takes their difference, ordinal the number of ratings between them.

    Returns:
        NaN when no unit has two ratings, or all ratings are equal.

    Raises:
        ValueError: the shape is another, or a rating is infinite.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).
    """
    values = np.asarray(ratings, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"ratings have shape {values.shape}; allowed is [raters, units]")
    if np.isinf(values).any():
        raise ValueError("ratings hold an infinity; only finite values, and NaN for none, are allowed")
    values = values[:, (~np.isnan(values)).sum(0) >= 2]
    if not values.size or np.nanmin(values) == np.nanmax(values):
        return math.nan
    if level == "ordinal":
        values = stats.rankdata(values, axis=None, nan_policy="omit").reshape(values.shape)
    values = values - np.nanmean(values)  # sums of squares of large numbers would lose digits
    counts = (~np.isnan(values)).sum(0)
    total = counts.sum()
    # the sum of (a - b)^2 over ordered pairs of n values is 2 (n sum a^2 - (sum a)^2)
    within = counts * np.nansum(values**2, 0) - np.nansum(values, 0) ** 2
    observed = (within / (counts - 1)).sum() / total
    expected = (total * np.nansum(values**2) - np.nansum(values) ** 2) / (total * (total - 1))
    return float(1 - observed / expected)


def pointing_game(scores: ArrayLike, defective: ArrayLike) -> float:
    """Share of clips whose worst patch by the scores is truly defective, in 0..1.

    Clips without a defective patch are left out; where several patches share the lowest score, the share of
    defective ones among them counts.

    Args:
        scores: [clips, patches], lower is worse.
        defective: [clips, patches], booleans.

    Returns:
        NaN when no clip has a defective patch.

    Raises:
        ValueError: the shapes differ or are not [clips, patches], or a score is NaN.
    """
    values, is_defective = np.asarray(scores, dtype=np.float64), np.asarray(defective, dtype=bool)
    if values.shape != is_defective.shape or values.ndim != 2:
        raise ValueError(
            f"scores have shape {values.shape} and defective {is_defective.shape}; both must be [clips, patches]"
        )
    if np.isnan(values).any():
        raise ValueError("a score is NaN; leave its clip out")
    values, is_defective = values[is_defective.any(1)], is_defective[is_defective.any(1)]
    if not len(values):
        return math.nan
    worst = values == values.min(1, keepdims=True)
    return float(((worst & is_defective).sum(1) / worst.sum(1)).mean())


def preference_accuracy(margins: ArrayLike, truth: ArrayLike) -> float:
    """Accuracy without ties, in 0..1: of the pairs that the truth decides, the share that the margins order alike.

    A margin of zero counts half.

    Args:
        margins: [pairs], positive where the first of a pair scores higher.
        truth: [pairs], positive where the first is better, zero where neither is.

    Returns:
        NaN when the truth decides no pair.

    Raises:
        ValueError: as in `tied_accuracy`.
    """
    values, reference = _matched_margins(margins, truth)
    decided = reference != 0
    if not decided.any():
        return math.nan
    return float((1 + np.sign(values[decided]) * np.sign(reference[decided])).mean() / 2)


def tied_accuracy(margins: ArrayLike, truth: ArrayLike, tie: float | None = None) -> TiedAccuracy:
    """Accuracy with ties: the share of all pairs that the margins call first, second or tie as the truth does.

    Args:
        margins: [pairs], positive where the first of a pair scores higher.
        truth: [pairs], positive where the first is better, zero where neither is.
        tie: margins of at most this size are a tie; left out, the size with the highest accuracy is taken, so that
            scores on different scales can be compared.

    Returns:
        NaN when there is no pair.

    Raises:
        ValueError: the shapes differ, a value is NaN, or `tie` is negative.

    Source: Deutsch, Foster, Freitag, Ties Matter (2023); the published scripts of VideoReward do the same.
    """
    values, reference = _matched_margins(margins, truth)
    if tie is not None and not tie >= 0:
        raise ValueError(f"tie is {tie}; it must be zero or positive")
    if not len(values):
        return TiedAccuracy(math.nan, math.nan if tie is None else tie)
    # Pairs in the order of their size: with the threshold at the i-th of them, the first i are ties.
    order = np.argsort(np.abs(values), kind="stable")
    sizes = np.abs(values)[order]
    is_tie = (reference == 0)[order]
    right = (np.sign(values) == np.sign(reference))[order] & ~is_tie
    as_ties = np.concatenate([[0], np.cumsum(is_tie)])
    as_decided = right.sum() - np.concatenate([[0], np.cumsum(right)])
    if tie is None:
        last_of_size = np.append(sizes[1:] != sizes[:-1], True)  # equal sizes are ties together or not at all
        allowed = np.concatenate([[sizes[0] > 0], last_of_size])  # a margin of zero is always a tie
        accuracy = np.where(allowed, as_ties + as_decided, -1)
        best = int(accuracy.argmax())
        return TiedAccuracy(float(accuracy[best] / len(values)), float(sizes[best - 1]) if best else 0.0)
    count = int(np.searchsorted(sizes, tie, side="right"))
    return TiedAccuracy(float((as_ties[count] + as_decided[count]) / len(values)), tie)


def resampled_interval(
    measure: Callable[[NDArray[np.int64]], float],
    groups: ArrayLike,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A measure of units with its percentile bootstrap interval, resampling whole groups of units.

    Clips of one prompt are alike, and so are the patches of a clip, so they are drawn together.

    Args:
        measure: the value for an array of indices of units, in which a unit may occur repeatedly.
        groups: [units], equal for units of the same group.
        num_resamples: with 1000 the bounds vary by about 3% of the interval's width.
        level: share of such intervals that should hold the true value, in (0, 1).
        seed: seed of the resampling.

    Returns:
        Bounds are NaN with fewer than two groups, or when 5% of the resamples or more have no value.

    Raises:
        ValueError: `level` is not in (0, 1), or `num_resamples` is below one.
    """
    if not 0 < level < 1 or num_resamples < 1:
        raise ValueError(f"level is {level} and num_resamples {num_resamples}; allowed are (0, 1) and 1 or more")
    _, group_of_unit = np.unique(np.asarray(groups), return_inverse=True)
    num_groups = int(group_of_unit.max(initial=-1)) + 1
    units_of_group = [np.flatnonzero(group_of_unit == group) for group in range(num_groups)]
    value = measure(np.arange(len(group_of_unit)))
    if num_groups < 2 or math.isnan(value):
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    resampled = np.empty(num_resamples)
    for index in range(num_resamples):
        drawn_groups = rng.integers(num_groups, size=num_groups)
        resampled[index] = measure(np.concatenate([units_of_group[group] for group in drawn_groups]))
    if np.isfinite(resampled).mean() <= _DEFINED:
        return Interval(value, math.nan, math.nan)
    low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _matched_margins(margins: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    """Both sides as [pairs], after checking that they belong together."""
    values, reference = np.asarray(margins, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if values.shape != reference.shape or values.ndim != 1:
        raise ValueError(f"margins have shape {values.shape} and truth {reference.shape}; both must be [pairs]")
    if np.isnan(values).any() or np.isnan(reference).any():
        raise ValueError("a margin is NaN; leave its pair out")
    return values, reference
