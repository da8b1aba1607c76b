"""VideoScore's benchmark protocol: scores and human answers in, the published numbers out.

Four test sets, two measures. VideoFeedback-test and EvalCrafter: Spearman's correlation per aspect. GenAI-Bench and
VBench: how often the scores prefer the clip that people prefer, by the mean of the aspects and by each aspect alone.
Source: https://github.com/TIGER-AI-Lab/VideoScore, the scripts of its benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from halovid.store.errors import InputError
from halovid.store.foreign import describe, read_json

TIE = 0.5  # clips that people call a tie count as right when their scores differ by less
_DIGITS = 4


@dataclass(frozen=True)
class PairAccuracy:
    """Shares of pairs in 0..1, to four digits: by the mean of the aspects, and by each aspect."""

    mean: float
    aspects: tuple[float, ...]
    num_pairs: int


def spearman_by_aspect(scores: ArrayLike, ratings: ArrayLike) -> list[float | None]:
    """Spearman's correlation in percent of each aspect, to four digits; None where one side is constant.

    Args:
        scores: [clips, aspects] of the model.
        ratings: the same shape, of people.
    """
    ours, theirs = np.asarray(scores, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise ValueError(f"scores {ours.shape} and ratings {theirs.shape} must both be [clips, aspects]")
    results: list[float | None] = []
    for own, human in zip(ours.T, theirs.T, strict=True):
        constant = len(own) < 2 or not (np.ptp(own) and np.ptp(human))
        results.append(None if constant else _percent(stats.spearmanr(human, own).statistic))
    return results


def _percent(correlation: float) -> float | None:
    """In percent; rounded as numpy does, which differs from Python on halves, since the published script does so."""
    return None if np.isnan(correlation) else float(np.round(correlation * 100, _DIGITS))


def prefers_rightly(left: float, right: float, left_preference: float, right_preference: float) -> bool:
    """Whether two scores order a pair as people do; a tie is right when the scores differ by less than `TIE`.

    Scores that are equal are wrong unless people call it a tie.
    """
    if left_preference > right_preference:
        return bool(left > right)
    if left_preference < right_preference:
        return bool(left < right)
    return bool(abs(left - right) < TIE)


def genai_bench_accuracy(
    left: ArrayLike, right: ArrayLike, preferences: ArrayLike, exclude_ties: bool = False
) -> PairAccuracy:
    """GenAI-Bench: each aspect is asked on its own.

    Args:
        left: [pairs, aspects], scores of the left clips.  right: the same of the right ones.
        preferences: [pairs, 2], how much people prefer the left and the right clip.
        exclude_ties: leave out pairs that people call a tie.

    Raises:
        ValueError: the shapes do not belong together, or no pair is left.
    """
    first, second, votes = _pairs(left, right, preferences, exclude_ties)
    return PairAccuracy(
        _share([_mean_prefers(a, b, v) for a, b, v in zip(first, second, votes, strict=True)]),
        tuple(
            _share([prefers_rightly(a[k], b[k], *v) for a, b, v in zip(first, second, votes, strict=True)])
            for k in range(first.shape[1])
        ),
        len(votes),
    )


def vbench_accuracy(
    left: ArrayLike, right: ArrayLike, left_preferences: ArrayLike, exclude_ties: bool = False
) -> PairAccuracy:
    """VBench: as `genai_bench_accuracy`, but an aspect counts only in pairs that the mean has right.

    That is how the published script counts, by the depth of its loop; so an aspect is never above the mean, and these
    numbers do not compare with GenAI-Bench's.

    Args:
        left_preferences: [pairs] in 0..1, one minus it being that of the right clip; 0.5 is a tie.
    """
    votes = np.asarray(left_preferences, dtype=np.float64)
    first, second, both = _pairs(left, right, np.stack([votes, 1 - votes], axis=-1), exclude_ties)
    right_by_mean = [_mean_prefers(a, b, v) for a, b, v in zip(first, second, both, strict=True)]
    return PairAccuracy(
        _share(right_by_mean),
        tuple(
            _share(
                [
                    good and prefers_rightly(a[k], b[k], *v)
                    for good, a, b, v in zip(right_by_mean, first, second, both, strict=True)
                ]
            )
            for k in range(first.shape[1])
        ),
        len(both),
    )


def read_answers(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Clip id -> (the model's scores, people's ratings) of a result file of the published scripts.

    These are JSON lists of {"id", "ref", "ans"} in which ratings and scores are lists written as text. An id that is
    there twice keeps its last answer, since a second run of a script appends to its file.

    Raises:
        InputError: the file is no such list.
    """
    try:
        rows = read_json(path)
        return {row["id"]: (_numbers(row["ans"]), _numbers(row["ref"])) for row in rows}
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is no list of answers with id, ref and ans ({describe(error)})") from error


def _numbers(text: str) -> list[float]:
    """The numbers of a list that is written as text."""
    return [float(value) for value in json.loads(text)]


def _pairs(
    left: ArrayLike, right: ArrayLike, preferences: ArrayLike, exclude_ties: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of both sides and preferences of the pairs that count."""
    first, second, votes = (np.asarray(values, dtype=np.float64) for values in (left, right, preferences))
    if first.ndim != 2 or first.shape != second.shape or votes.shape != (len(first), 2):
        raise ValueError(
            f"left {first.shape} and right {second.shape} must both be [pairs, aspects] and preferences "
            f"{votes.shape} [pairs, 2]"
        )
    kept = votes[:, 0] != votes[:, 1] if exclude_ties else np.ones(len(votes), dtype=bool)
    if not kept.any():
        raise ValueError(f"none of {len(votes)} pairs is left to measure")
    return first[kept], second[kept], votes[kept]


def _mean_prefers(left: np.ndarray, right: np.ndarray, votes: np.ndarray) -> bool:
    """Whether the means of the aspects order a pair rightly."""
    return prefers_rightly(np.mean(left), np.mean(right), *votes)


def _share(right: Sequence[bool]) -> float:
    """Rounded as Python does, like the published scripts."""
    return round(sum(right) / len(right), _DIGITS)
