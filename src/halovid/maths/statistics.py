"""Agreement between scores and the truth, and intervals for means and improvements: numbers in, numbers out.

Agreement takes any two arrays of one shape and compares them value by value. Intervals resample prompts, not
clips: clips of one prompt are alike, and taking them for independent would make every interval too narrow.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

_CHUNK = 2**22  # most values that a step of a pairwise comparison or of a bootstrap holds in memory


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval.

    mean: the estimate from all data.  low, high: bounds of the interval, in the same unit.
    """

    mean: float
    low: float
    high: float


def spearman(scores: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation, in -1..1; NaN when one side is constant or empty.

    Args:
        scores: [...] what is judged; only the order matters.
        truth: [...] of the same shape.

    Raises:
        ValueError: the shapes differ, or a value is NaN.
    """
    return _rank_correlation(stats.spearmanr, scores, truth)


def kendall(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's rank correlation tau-b (ties corrected), in -1..1; NaN when one side is constant or empty.

    Args:
        scores: [...] what is judged; only the order matters.
        truth: [...] of the same shape.

    Raises:
        ValueError: the shapes differ, or a value is NaN.
    """
    return _rank_correlation(stats.kendalltau, scores, truth)  # variant "b" is scipy's default


def _rank_correlation(correlate: Callable[..., Any], scores: ArrayLike, truth: ArrayLike) -> float:
    """What scipy's `correlate` gives of two matching arrays; NaN when one of them is constant or empty."""
    first, second = _matched(scores, truth, "truth")
    if _is_constant(first) or _is_constant(second):
        return math.nan
    return float(correlate(first, second).statistic)


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a random positive scores higher than a random negative, in 0..1; ties count half.

    The area under the ROC curve, from ranks (Mann-Whitney U): n log n time.

    Args:
        scores: [...] higher means more likely positive.
        positive: [...] of the same shape, booleans or zeros and ones.

    Returns:
        NaN when all values are positive, or none is.

    Raises:
        ValueError: the shapes differ, a value is NaN, or `positive` holds something else than 0 and 1.
    """
    values, labels = _matched(scores, positive, "positive")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"positive holds values from {labels.min()} to {labels.max()}; only 0 and 1 (or booleans) are "
            "allowed: compare with a threshold first"
        )
    is_positive = labels == 1
    num_positive = int(is_positive.sum())
    num_negative = len(labels) - num_positive
    if not num_positive or not num_negative:
        return math.nan
    rank_sum = stats.rankdata(values)[is_positive].sum()
    wins = rank_sum - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * num_negative))


def pairwise_accuracy(scores: ArrayLike, truth: ArrayLike, tie: float = 0.0) -> float:
    """Share of all pairs of values that the scores order as the truth does, in 0..1.

    Pairs that the truth ties are left out; pairs that only the scores tie count half. With N values it takes
    N^2 / 2 comparisons (about a second for 60 000) and bounded memory.

    Args:
        scores: [...] what is judged; only the order matters.
        truth: [...] of the same shape.
        tie: two values of the truth at most this far apart are a tie; in the unit of the truth, >= 0.

    Returns:
        NaN when the truth ties every pair.

    Raises:
        ValueError: the shapes differ, a value is NaN, or `tie` is negative.
    """
    values, reference = _matched(scores, truth, "truth")
    if not tie >= 0:
        raise ValueError(f"tie is {tie}; it must be zero or positive")
    order = np.argsort(
        reference, kind="stable"
    )  # so that in every pair the one that the truth puts higher comes second
    values, reference = values[order], reference[order]
    wins = pairs = 0.0
    step = max(1, _CHUNK // max(1, len(values)))
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        decided = reference[None, start:] > reference[rows, None] + tie
        wins += np.count_nonzero(decided & (values[None, start:] > values[rows, None]))
        wins += np.count_nonzero(decided & (values[None, start:] == values[rows, None])) / 2
        pairs += np.count_nonzero(decided)
    return wins / pairs if pairs else math.nan


def bootstrap(values: ArrayLike, num_resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of `values` with its percentile bootstrap interval over prompts.

    With few prompts it is too narrow: of 1000 intervals of level 0.95 on normal values, 83% held the true mean with 5
    prompts, 91% with 10 and 94% with 20; on exponential values 79%, 86% and 90%.

    Args:
        values: [num_prompts, samples_per_prompt] or [num_prompts].
        num_resamples: number of resamples; with 10 000 the bounds vary by about 1% of the interval's width.
        level: share of such intervals that should hold the true mean, in (0, 1).
        seed: seed of the resampling; equal seeds give equal intervals.

    Raises:
        ValueError: a prompt has a NaN or an infinity, there are fewer than two prompts, the shape is another,
            or `level` is not in (0, 1).
    """
    return _bootstrap([_prompt_means(values, "values")], _mean, num_resamples, level, seed)


def paired_bootstrap(
    base: ArrayLike, aligned: ArrayLike, num_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The improvement mean(aligned) - mean(base) with its interval, paired by prompt.

    Whatever makes one prompt harder than another cancels, as both sides are resampled together.

    Args:
        base: [num_prompts, samples_per_prompt] or [num_prompts].
        aligned: the same prompts in the same order; the number of samples may differ.
        num_resamples: as in `bootstrap`.
        level: as in `bootstrap`.
        seed: as in `bootstrap`.

    Raises:
        ValueError: the numbers of prompts differ, or as in `bootstrap`.
    """
    before, after = _paired_prompts(base, aligned)
    return _bootstrap([after - before], _mean, num_resamples, level, seed)


def paired_ratio(
    base: ArrayLike, aligned: ArrayLike, num_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The relative reduction 1 - mean(aligned) / mean(base) with its interval, paired by prompt.

    For quantities that are better when smaller, such as defect rates: 0.3 means 30% fewer. The ratio of
    means, not the mean of ratios, so that prompts without defects do no harm.

    Args:
        base: [num_prompts, samples_per_prompt] or [num_prompts], none negative.
        aligned: the same prompts in the same order; the number of samples may differ.
        num_resamples: as in `bootstrap`.
        level: as in `bootstrap`.
        seed: as in `bootstrap`.

    Returns:
        `low` and `high` are NaN when so few prompts of the base differ from zero that a resample had none of them:
        then there is no bound for the ratio.

    Raises:
        ValueError: a value is negative, the base is zero everywhere, the numbers of prompts differ, or as in
            `bootstrap`.
    """
    before, after = _paired_prompts(base, aligned)
    lowest = min(np.min(np.asarray(base)), np.min(np.asarray(aligned)))
    if lowest < 0:
        raise ValueError(f"the smallest value is {lowest}; a relative change needs values of zero or more")
    if not before.any():
        raise ValueError("base is zero everywhere, so no relative change exists; use paired_bootstrap")
    return _bootstrap([before, after], _reduction, num_resamples, level, seed)


def _mean(values: Array, axis: int = -1) -> Array:
    """The mean along an axis, with the signature that scipy's bootstrap needs."""
    means: Array = values.mean(axis)
    return means


def _reduction(before: Array, after: Array, axis: int = -1) -> Array:
    """1 - mean(after) / mean(before), NaN where the latter is zero."""
    scale = _mean(before, axis)
    return 1 - _mean(after, axis) / np.where(scale > 0, scale, np.nan)


def _bootstrap(
    samples: list[Array],
    statistic: Callable[..., Array],
    num_resamples: int,
    level: float,
    seed: int,
) -> Interval:
    """A statistic of one or two arrays [num_prompts], resampled together, with its percentile interval."""
    num_prompts = len(samples[0])
    if num_prompts < 2:
        raise ValueError(f"got {num_prompts} prompts; an interval over prompts needs at least two")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, for example 0.95")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # NaN bounds tell it, see paired_ratio
        result = stats.bootstrap(
            samples,
            statistic,
            n_resamples=num_resamples,
            batch=max(1, _CHUNK // num_prompts),
            vectorized=True,
            paired=True,
            confidence_level=level,
            # not BCa: it is undefined when all prompts agree, and near the same for means
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return Interval(float(statistic(*samples)), float(low), float(high))


def _paired_prompts(base: ArrayLike, aligned: ArrayLike) -> tuple[Array, Array]:
    """The means of each prompt on both sides, twice [num_prompts]."""
    before, after = _prompt_means(base, "base"), _prompt_means(aligned, "aligned")
    if len(before) != len(after):
        raise ValueError(
            f"base has {len(before)} prompts and aligned {len(after)}; "
            "both need the same prompts, and in the same order"
        )
    return before, after


def _prompt_means(values: ArrayLike, name: str) -> Array:
    """The mean of each prompt, [num_prompts]."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(
            f"{name} has shape {array.shape}; allowed are [num_prompts] and [num_prompts, samples_per_prompt]"
        )
    means = _mean(array.reshape(len(array), -1), axis=1)
    num_bad = int((~np.isfinite(means)).sum())
    if num_bad:
        raise ValueError(
            f"{num_bad} of {len(means)} prompts in {name} have a NaN or an infinity; "
            "leave these prompts out on both sides, and report how many"
        )
    return means


def _matched(scores: ArrayLike, truth: ArrayLike, name: str) -> tuple[Array, Array]:
    """Both sides flat, after checking that they belong together."""
    first, second = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"scores have shape {first.shape} and {name} {second.shape}; they must be equal")
    num_missing = int((np.isnan(first) | np.isnan(second)).sum())
    if num_missing:
        raise ValueError(f"{num_missing} of {first.size} values are NaN in scores or {name}; leave them out")
    return first.ravel(), second.ravel()


def _is_constant(values: Array) -> bool:
    """Whether no two values differ."""
    return not values.size or bool(values.min() == values.max())
