"""Raters of clips, read from tables: people, judges, reward models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from halovid.store.errors import InputError, shorten
from halovid.store.foreign import describe, read_table_of_others
from halovid.store.tables import LABELS, PREFERENCES, RELEASED, REWARDS, patch_matrix

Array = NDArray[np.float64]
OVERALL = "overall"  # the aspect of a reward, and of the mean over a rater's aspects
_DIGITS = 6  # decimals that scores are rounded to, so that float errors decide no tie and no defect


@dataclass
class Scores:
    """A rater's scores in one aspect.

    clips: clip id -> score.  patches: clip id -> scores of its patches, flat, where there are any.
    """

    clips: dict[str, float] = field(default_factory=dict)
    patches: dict[str, Array] = field(default_factory=dict)


@dataclass
class Rater:
    """A rater who scores clips (aspect -> scores), or one who compares them.

    preferences: (first, second) -> 1 the first is better, -1 the second, 0 neither; anything between is possible.
    patch_preferences: the same for each patch, flat.
    """

    name: str
    scores: dict[str, Scores] = field(default_factory=dict)
    preferences: dict[tuple[str, str], float] = field(default_factory=dict)
    patch_preferences: dict[tuple[str, str], Array] = field(default_factory=dict)


def read_raters(path: Path, prompts: dict[str, str]) -> list[Rater]:
    """The raters of a file with labels, rewards or preferences: one for each name in its column `judge`.

    Args:
        prompts: clip id -> prompt id; the prompts that the file names are added.

    Raises:
        InputError: the file can't be read, is no such table, holds no row, or rates something twice.
    """
    table = read_table_of_others(path)
    for schema, needed, make in (
        (LABELS, {"clip_id", "aspect", "score"}, _from_labels),
        (RELEASED, {"clip_id", "reward", "names", "scores"}, _from_rewards),
        (REWARDS, {"clip_id", "reward"}, _from_rewards),
        (PREFERENCES, {"first", "second", "preference"}, _from_preferences),
    ):
        if needed <= table.columns:
            rated = table.conform(schema)
            raters = make(rated, path)
            _note_prompts(rated, prompts)
            return raters
    raise InputError(
        f"{path} has the columns {shorten(', '.join(sorted(table.columns)))}: neither labels (clip_id, aspect, score), "
        f"rewards (clip_id, reward) nor preferences (first, second, preference); docs/tables.md tells what they hold"
    )


def mean_rater(raters: list[Rater], name: str) -> Rater:
    """The mean of several raters, for each clip, aspect and pair over those who rated it."""
    merged = Rater(name)
    for aspect in dict.fromkeys(aspect for rater in raters for aspect in rater.scores):
        scores_of_raters = [rater.scores[aspect] for rater in raters if aspect in rater.scores]
        clips = _mean([scores.clips for scores in scores_of_raters])
        merged.scores[aspect] = Scores(clips, _mean([scores.patches for scores in scores_of_raters]))
    merged.preferences = _mean([rater.preferences for rater in raters])
    merged.patch_preferences = _mean([rater.patch_preferences for rater in raters])
    return merged


def _mean(tables: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Key -> mean over the tables that have it; of patches over those that rate them (NaN where none does)."""
    means = {}
    for key, values in _gathered(tables).items():
        count = (~np.isnan(values)).sum(0)
        means[key] = (np.nansum(values, 0) / np.where(count, count, np.nan)).round(_DIGITS)
    return means


def _mean_of_all(tables: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Key -> mean over all tables, of keys that every table has; NaN for a patch that one of them does not rate."""
    gathered = _gathered(tables)
    return {key: gathered[key].mean(0).round(_DIGITS) for key in sorted(gathered) if len(gathered[key]) == len(tables)}


def _gathered(tables: Sequence[Mapping[Any, Any]]) -> dict[Any, Array]:
    """Key -> its values in the tables that have it: [tables], or [tables, patches].

    Raises:
        InputError: the values of a key are of different grids.
    """
    values_of: dict[Any, list[Any]] = {}
    for table in tables:
        for key, value in table.items():
            values_of.setdefault(key, []).append(value)
    for key, values in values_of.items():
        if len(sizes := {np.size(value) for value in values}) > 1:
            raise InputError(f"{key!r} has ratings of {sorted(sizes)} patches; use one patch grid")
    return {key: np.array(values, dtype=np.float64) for key, values in values_of.items()}


def _note_prompts(table: pa.Table, prompts: dict[str, str]) -> None:
    """Adds the prompts of a table's clips, where it names them."""
    if "prompt_id" in table.column_names:
        for name in {"clip_id", "first", "second"} & set(table.column_names):
            pairs = zip(table.column(name).to_pylist(), table.column("prompt_id").to_pylist(), strict=True)
            prompts.update((clip, prompt) for clip, prompt in pairs if prompt is not None)


def _from_labels(table: pa.Table, path: Path) -> list[Rater]:
    """A rater for each judge in a label table."""
    raters = []
    for judge, labels in _by_value(table, "judge", path.stem):
        rater = Rater(judge)
        for aspect, rows in _by_value(labels, "aspect", "?"):
            rater.scores[aspect] = _scores(rows, "score", "patch_scores", path)
        rater.scores[OVERALL] = _overall(rater)
        raters.append(rater)
    return raters


def _from_rewards(table: pa.Table, path: Path) -> list[Rater]:
    """The one rater of a reward table; that of a released model also has the scores that the model names."""
    scores = {OVERALL: _scores(table, "reward", "patch_rewards", path)}
    if {"names", "scores"} <= set(table.column_names):
        for row in table.select(["clip_id", "names", "scores"]).to_pylist():
            names, values = row["names"] or [], row["scores"] or []
            if len(names) != len(values) or None in names:
                raise InputError(f"{path} holds a row with {len(names)} names of {len(values)} scores; each needs one")
            for name, score in zip(names, _require_finite(values, path), strict=True):
                scores.setdefault(name, Scores()).clips[row["clip_id"]] = float(score)
    return [Rater(path.stem, scores)]


def _from_preferences(table: pa.Table, path: Path) -> list[Rater]:
    """A rater for each judge in a table of compared pairs, which are kept with their clips in sorted order."""
    raters = []
    for judge, comparisons in _by_value(table, "judge", path.stem):
        rater = Rater(judge)
        for row in comparisons.to_pylist():
            if row["first"] is None or row["second"] is None:
                raise InputError(f"{path} holds a preference without its first or second clip; give both")
            if row["first"] == row["second"]:
                raise InputError(f"{path} compares the clip {describe(row['first'])} with itself")
            pair, sign = _sorted_pair(row["first"], row["second"])
            if pair in rater.preferences:
                raise InputError(f"{path} holds two preferences of {describe(judge)} about the clips {describe(pair)}")
            _require_finite([row["preference"]], path)
            rater.preferences[pair] = sign * row["preference"]
            if row["patch_preferences"] is not None:
                rater.patch_preferences[pair] = sign * _require_finite(row["patch_preferences"], path)
        raters.append(rater)
    return raters


def _sorted_pair(first: str, second: str) -> tuple[tuple[str, str], int]:
    """A pair in sorted order, and the sign that turns a preference of the given order into one of the sorted order."""
    return ((first, second), 1) if first <= second else ((second, first), -1)


def _by_value(table: pa.Table, column: str, default: str) -> list[tuple[str, pa.Table]]:
    """The rows of each value of a column, in the order of the values; nulls count as `default`."""
    filled = pc.fill_null(table.column(column), default)
    return [(value, table.filter(pc.equal(filled, value))) for value in sorted(filled.unique().to_pylist())]


def _scores(rows: pa.Table, score: str, patches: str, path: Path) -> Scores:
    """One rater's scores in one aspect, from the columns with these names."""
    clips = rows.column("clip_id").to_pylist()
    if None in clips:
        raise InputError(f"{path} holds a row without a clip_id")
    if len(set(clips)) < len(clips):
        raise InputError(f"{path} rates a clip twice in one aspect by one judge; merge these first")
    values = _require_finite(rows.column(score).to_pylist(), path)
    with_patches = rows.filter(pc.is_valid(rows.column(patches)))
    patch_scores: dict[str, Array] = {}
    if len(with_patches):
        matrix = patch_matrix(with_patches, patches).astype(np.float64).round(_DIGITS)
        _require_finite(matrix[~np.isnan(matrix)], path)  # NaN: a patch that nobody was asked about
        patch_scores = dict(zip(with_patches.column("clip_id").to_pylist(), matrix, strict=True))
    return Scores(dict(zip(clips, values.round(_DIGITS).tolist(), strict=True)), patch_scores)


def _overall(rater: Rater) -> Scores:
    """The mean over the aspects: of clips rated in all of them, of patches rated in all that have patch scores."""
    aspects = list(rater.scores.values())
    by_patch = [scores.patches for scores in aspects if scores.patches]
    return Scores(_mean_of_all([scores.clips for scores in aspects]), _mean_of_all(by_patch))


def _require_finite(values: object, path: Path) -> Array:
    """The values as an array; InputError when one is missing or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"{path} holds a rating that is missing or not a finite number")
    return array
