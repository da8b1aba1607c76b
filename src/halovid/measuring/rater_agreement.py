"""How well raters agree with a reference, and people with each other: the table of human alignment."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from halovid.maths import reliability, statistics
from halovid.maths.numbers import show_interval, show_number
from halovid.maths.reliability import resampled_interval
from halovid.maths.statistics import Interval
from halovid.measuring.raters import OVERALL, Rater, mean_rater, read_raters
from halovid.records import DEFECT_RATING
from halovid.store.errors import InputError
from halovid.store.runtime import console, progress
from halovid.store.tables import RELIABILITY, rows_to_table

Row = dict[str, Any]
Array = NDArray[np.float64]
Units = NDArray[np.int64]
Pair = tuple[str, str]
RowKey = tuple[str, str, str, str]  # scope, aspect, rater, reference: all rows of one comparison have the same

EACH_OTHER = "each other"
_PLURAL = {"clip": "clips", "patch": "patches", "pair": "pairs", "patch pair": "patches of pairs"}
_NO_ORDER = "one side rates all alike"
_WHY_UNDEFINED = {  # measure -> why it may have no value
    "spearman": _NO_ORDER,
    "kendall": _NO_ORDER,
    "auroc": "no patch is defective, or all are",
    "pointing": "no clip has a defective patch",
    "pointing by chance": "no clip has a defective patch",
    "accuracy without ties": "the reference finds no clip of a pair better",
    "accuracy with ties": "there is no pair",
    "alpha interval": "all ratings are equal",
    "alpha ordinal": "all ratings are equal",
}
_MOST_PAIRED = 200  # clips up to which pairs are resampled when it is not known which clips share a prompt


def agreement_table(files: Sequence[Path], prompts: dict[str, str], num_resamples: int, seed: int) -> pa.Table:
    """The table tables.RELIABILITY of the raters in these files.

    All raters of the other files are compared with the mean of the raters in the first; where that file has several,
    they are compared with each other as well.

    Args:
        prompts: clip id -> prompt id, as far as they are known; those that the files name are added.

    Raises:
        InputError: a file can't be read, there is nobody to compare, or two have nothing in common.
    """
    groups = [read_raters(path, prompts) for path in files]
    _tell_apart(groups, files)
    if len(groups) == 1 and len(groups[0]) == 1:
        raise InputError(f"{files[0]} has only one rater, {groups[0][0].name!r}; name a second file to compare with")
    reference_raters, *other_groups = groups
    several = len(reference_raters) > 1
    reference = mean_rater(reference_raters, files[0].stem) if several else reference_raters[0]
    comparison = Comparison(prompts, num_resamples, seed)
    with progress("compare", len(reference_raters) * several + sum(map(len, other_groups))) as advance:
        if several:
            comparison.among(reference_raters)
            advance(len(reference_raters))
        for rater in itertools.chain(*other_groups):
            if not comparison.against(rater, reference):
                raise InputError(f"{rater.name!r} and {reference.name!r} have fewer than two clips or pairs in common")
            advance()
    if not comparison.rows:
        raise InputError(f"no two raters of {files[0]} have two clips or pairs in common")
    order = list(_PLURAL)
    return rows_to_table(sorted(comparison.rows, key=lambda row: order.index(row["scope"])), RELIABILITY)


def show_agreement(table: pa.Table) -> None:
    """Prints a table for every rater and scope (clips, patches, pairs), with a line for every aspect and measure."""
    output, rows = Console(), table.to_pylist()
    for (scope, rater, reference), group in itertools.groupby(rows, _table_key):
        shown = Table("aspect", Column("measure", no_wrap=True), title_justify="left")
        shown.title = Text(f"{_PLURAL[scope]}: {rater} against {reference}", style="bold")
        for name in ("value", "95% interval", "count"):
            shown.add_column(name, justify="right")
        aspect, undefined = None, {}
        for row in group:
            name = row["aspect"].replace("_", " ") if row["aspect"] != aspect else ""
            aspect = row["aspect"]
            interval = show_interval(row["low"], row["high"], signed=False)
            shown.add_row(name, row["measure"], show_number(row["value"]), interval, str(row["count"]))
            if math.isnan(row["value"]):
                undefined[row["measure"]] = _WHY_UNDEFINED[row["measure"]]
        output.print(shown)
        for measure, reason in undefined.items():
            output.print(f"{measure} has no value: {reason}", highlight=False)


def _table_key(row: Row) -> tuple[str, str, str]:
    return row["scope"], row["rater"], row["reference"]


def _tell_apart(groups: Sequence[Sequence[Rater]], files: Sequence[Path]) -> None:
    """Puts the file's name before every name that several raters have."""
    names = Counter(rater.name for group in groups for rater in group)
    for group, path in zip(groups, files, strict=True):
        for rater in group:
            if names[rater.name] > 1:
                rater.name = f"{path.stem}: {rater.name}"


class Comparison:
    """Compares raters; `rows` collects the results, rows of tables.RELIABILITY.

    Args:
        prompts: clip id -> prompt id. Clips of a prompt are resampled together, and pairs are formed within prompts;
            if it is empty, clips are resampled one by one and all pairs count.
    """

    def __init__(self, prompts: Mapping[str, str], num_resamples: int, seed: int) -> None:
        self.rows: list[Row] = []
        self._prompts, self._num_resamples, self._seed = prompts, num_resamples, seed

    def against(self, rater: Rater, reference: Rater) -> bool:
        """Compares a rater with a reference in every aspect that both have.

        Returns:
            Whether they could be compared: they have at least two clips or pairs in common.

        Raises:
            InputError: they rate patches of different grids.
        """
        before = len(self.rows)
        for aspect in reference.scores:
            if aspect in rater.scores:
                self._clips(aspect, rater, reference)
                self._patches(aspect, rater, reference)
        if reference.preferences:
            self._preferences(rater, reference)
        return len(self.rows) > before

    def among(self, raters: Sequence[Rater]) -> None:
        """Compares each rater with the mean of the others, and adds Krippendorff's alpha of all of them.

        A rater who shares fewer than two clips or pairs with the others is not compared, and named on the terminal.
        """
        for rater in raters:
            mean_of_others = mean_rater([other for other in raters if other is not rater], "the others")
            if not self.against(rater, mean_of_others):
                console.print(f"{rater.name!r} shares fewer than two clips or pairs with the others: left out")
        for aspect in dict.fromkeys(aspect for rater in raters for aspect in rater.scores):
            scores_of_raters = [rater.scores[aspect] for rater in raters if aspect in rater.scores]
            self._alpha_of_all("clip", aspect, [scores.clips for scores in scores_of_raters])
            self._alpha_of_all("patch", aspect, [scores.patches for scores in scores_of_raters])
        self._alpha_of_all("pair", OVERALL, [rater.preferences for rater in raters])
        self._alpha_of_all("patch pair", OVERALL, [rater.patch_preferences for rater in raters])

    def _clips(self, aspect: str, rater: Rater, reference: Rater) -> None:
        """Compares scores of whole clips."""
        rated, true = rater.scores[aspect].clips, reference.scores[aspect].clips
        clips = sorted(rated.keys() & true.keys())
        if len(clips) < 2:
            return
        scores, truth = np.array([rated[clip] for clip in clips]), np.array([true[clip] for clip in clips])
        row_key = ("clip", aspect, rater.name, reference.name)
        groups = self._groups(clips)
        self._measure(row_key, "spearman", groups, lambda units: statistics.spearman(scores[units], truth[units]))
        self._measure(row_key, "kendall", groups, lambda units: statistics.kendall(scores[units], truth[units]))
        self._two_alphas(row_key, groups, scores, truth)
        self._pairs_of_clips(row_key, clips, scores, truth)

    def _patches(self, aspect: str, rater: Rater, reference: Rater) -> None:
        """Compares scores of patches; the reference's ratings decide which patches are defective."""
        rated, true = rater.scores[aspect].patches, reference.scores[aspect].patches
        clips = sorted(rated.keys() & true.keys())
        if len(clips) < 2:
            return
        sizes = {len(values[clip]) for values in (rated, true) for clip in clips}
        if len(sizes) > 1:
            raise InputError(
                f"{rater.name!r} and {reference.name!r} rate {sorted(sizes)} patches per clip; use one patch grid"
            )
        scores, truth = np.stack([rated[clip] for clip in clips]), np.stack([true[clip] for clip in clips])
        row_key = ("patch", aspect, rater.name, reference.name)
        groups = self._groups(clips)
        for name, measure in _PATCH_MEASURES.items():
            self._measure(row_key, name, groups, partial(_of_known_patches, measure, scores, truth))
        complete = np.flatnonzero(~np.isnan(scores + truth).any(1))  # clips of which both have rated all patches
        for name, pointing_scores in (("pointing", scores), ("pointing by chance", np.zeros_like(scores))):
            pointing = partial(_pointing, pointing_scores[complete], truth[complete])
            self._measure(row_key, name, [groups[index] for index in complete], pointing)
        self._two_alphas(row_key, groups, scores, truth)

    def _pairs_of_clips(self, row_key: RowKey, clips: Sequence[str], scores: Array, truth: Array) -> None:
        """Compares which of two clips is better; the truth is the order of the reference's ratings."""
        if any(clip in self._prompts for clip in clips):  # a clip whose prompt is not known is in no pair
            with_prompt = [index for index, clip in enumerate(clips) if clip in self._prompts]
            pairs = [
                pair for pair in itertools.combinations(with_prompt, 2)
                if self._prompts[clips[pair[0]]] == self._prompts[clips[pair[1]]]
            ]  # fmt: skip
            if pairs:
                first, second = np.array(pairs).T
                margins, true_margins = scores[first] - scores[second], truth[first] - truth[second]
                self._accuracies(row_key, [self._prompts[clips[index]] for index in first], margins, true_margins)
            return

        resamples = self._num_resamples if len(clips) <= _MOST_PAIRED else 0
        for name, measure in _ACCURACIES.items():
            self._measure(row_key, name, clips, partial(_accuracy_of_all, measure, scores, truth), resamples)

    def _preferences(self, rater: Rater, reference: Rater) -> None:
        """Compares pairs that the reference has compared, by the rater's comparisons, else by its scores of both."""
        row_key = ("pair", OVERALL, rater.name, reference.name)
        margins = {pair: _margin(rater, pair) for pair in reference.preferences}
        self._compared_pairs(row_key, margins, reference.preferences)
        patch_margins = {pair: _patch_margins(rater, pair) for pair in reference.patch_preferences}
        self._compared_pairs(("patch pair", *row_key[1:]), patch_margins, reference.patch_preferences)

    def _compared_pairs(self, row_key: RowKey, margins: Mapping[Pair, Any], preferences: Mapping[Pair, Any]) -> None:
        """Accuracies on the pairs with a margin (None: the rater has none), which is one value or one per patch."""
        _, _, rater, reference = row_key
        known = [pair for pair, margin in margins.items() if margin is not None]
        for pair in known:
            if len(sizes := {np.size(margins[pair]), np.size(preferences[pair])}) > 1:
                raise InputError(
                    f"{rater!r} and {reference!r} compare {sorted(sizes)} patches of {pair}; use one patch grid"
                )
        if len(known) >= 2:
            groups = [
                self._prompts.get(pair[0], "/".join(pair)) for pair in known for _ in range(np.size(preferences[pair]))
            ]
            values = np.concatenate([np.ravel(margins[pair]) for pair in known])
            truth = np.concatenate([np.ravel(preferences[pair]) for pair in known])
            rated = ~np.isnan(values + truth)
            self._accuracies(row_key, list(np.array(groups)[rated]), values[rated], truth[rated])

    def _accuracies(self, row_key: RowKey, groups: Sequence[str], margins: Array, true_margins: Array) -> None:
        """Accuracies of margins, with and without ties, against the true ones."""
        for name, measure in _ACCURACIES.items():
            self._measure(row_key, name, groups, partial(_accuracy_of, measure, margins, true_margins))

    def _two_alphas(self, row_key: RowKey, groups: Sequence[str], scores: Array, truth: Array) -> None:
        """Krippendorff's alpha of two raters: whether they mean the same by a rating."""
        self._alphas(row_key, groups, np.stack([scores, truth]).reshape(2, len(groups), -1))

    def _alpha_of_all(self, scope: str, aspect: str, ratings_of_raters: Sequence[Mapping[Any, Any]]) -> None:
        """Krippendorff's alpha of all raters on the clips or pairs (units) that at least two of them have rated."""
        counts: dict[Any, int] = {}
        for ratings in ratings_of_raters:
            for unit in ratings:
                counts[unit] = counts.get(unit, 0) + 1
        units = sorted(unit for unit, count in counts.items() if count > 1)
        if not units:
            return
        size = max(np.size(ratings[unit]) for ratings in ratings_of_raters for unit in units if unit in ratings)
        values = np.full((len(ratings_of_raters), len(units), size), math.nan)
        for rater, ratings in enumerate(ratings_of_raters):
            for index, unit in enumerate(units):
                if unit in ratings:
                    values[rater, index] = ratings[unit]
        groups = self._groups([unit if isinstance(unit, str) else unit[0] for unit in units])
        self._alphas((scope, aspect, "all", EACH_OTHER), groups, values)

    def _alphas(self, row_key: RowKey, groups: Sequence[str], values: Array) -> None:
        """Krippendorff's alpha of ratings [raters, units, values of a unit], at both levels of measurement."""
        for level in get_args(reliability.Level):
            self._measure(row_key, f"alpha {level}", groups, partial(_alpha_of, values, level))

    def _groups(self, clips: Sequence[str]) -> list[str]:
        """The group that each clip is resampled with: its prompt, or itself where that is not known."""
        return [self._prompts.get(clip, clip) for clip in clips]

    def _measure(
        self,
        row_key: RowKey,
        name: str,
        groups: Sequence[str],
        measure: Callable[[Units], float],
        num_resamples: int | None = None,
    ) -> None:
        """Adds one row: a measure of units in these groups, with its interval unless `num_resamples` is 0."""
        resamples = self._num_resamples if num_resamples is None else num_resamples
        units = np.arange(len(groups))
        if resamples:
            interval = resampled_interval(measure, groups, resamples, seed=self._seed)
        else:
            interval = Interval(measure(units), math.nan, math.nan)
        scope, aspect, rater, reference = row_key
        self.rows.append(
            {"scope": scope, "aspect": aspect, "rater": rater, "reference": reference, "measure": name}
            | {"value": interval.mean, "low": interval.low, "high": interval.high, "count": len(groups)}
        )


def _alpha_of(values: Array, level: reliability.Level, units: Units) -> float:
    return reliability.krippendorff_alpha(values[:, units].reshape(len(values), -1), level)


def _of_known_patches(measure: Callable[[Array, Array], float], scores: Array, truth: Array, units: Units) -> float:
    """A measure over the patches of these clips, without those that rater or reference have not rated."""
    known = ~np.isnan(scores[units] + truth[units])
    return measure(scores[units][known], truth[units][known])


def _pointing(scores: Array, truth: Array, units: Units) -> float:
    return reliability.pointing_game(scores[units], truth[units] < DEFECT_RATING)


def _accuracy_of(measure: Accuracy, margins: Array, true_margins: Array, units: Units) -> float:
    return measure(margins[units], true_margins[units])


def _accuracy_of_all(measure: Accuracy, scores: Array, truth: Array, units: Units) -> float:
    """Accuracy on all pairs of these clips; a clip that was drawn twice is not paired with itself."""
    first, second = np.triu_indices(len(units), 1)
    different = units[first] != units[second]
    first, second = units[first[different]], units[second[different]]
    return measure(scores[first] - scores[second], truth[first] - truth[second])


_PATCH_MEASURES: dict[str, Callable[[Array, Array], float]] = {
    "spearman": statistics.spearman,
    "kendall": statistics.kendall,
    "auroc": lambda scores, truth: statistics.auroc(-scores, truth < DEFECT_RATING),
}
Accuracy = Callable[[Array, Array], float]
_ACCURACIES: dict[str, Accuracy] = {
    "accuracy without ties": reliability.preference_accuracy,
    "accuracy with ties": lambda margins, truth: reliability.tied_accuracy(margins, np.sign(truth)).accuracy,
}


def _margin(rater: Rater, pair: Pair) -> float | None:
    """How much better a rater finds the first of two clips; None where it has neither compared nor scored both."""
    if pair in rater.preferences:
        return rater.preferences[pair]
    clips = rater.scores[OVERALL].clips if OVERALL in rater.scores else {}
    return clips[pair[0]] - clips[pair[1]] if pair[0] in clips and pair[1] in clips else None


def _patch_margins(rater: Rater, pair: Pair) -> Array | None:
    """How much better a rater finds each patch of the first clip; None as in `_margin`."""
    if pair in rater.patch_preferences:
        return rater.patch_preferences[pair]
    patches = rater.scores[OVERALL].patches if OVERALL in rater.scores else {}
    return patches[pair[0]] - patches[pair[1]] if pair[0] in patches and pair[1] in patches else None
