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
RowKey = tuple[str, str, str, str]  # what a row is about: scope, aspect, rater, reference

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
_MOST_PAIRED = 200  # clips whose pairs are formed anew for every resample, when it is not known which share a prompt


def agreement_table(files: Sequence[Path], prompts: dict[str, str], num_resamples: int, seed: int) -> pa.Table:
    """The table tables.RELIABILITY of the raters in some files.

    The first file is the reference, as the mean of its raters, for all the others; where it has several raters,
    they are held against each other too.

    Args:
        prompts: clip -> prompt, as far as it is known; the files may tell more.

    Raises:
        InputError: a file can't be read, there is nobody to compare, or two have nothing in common.
    """
    groups = [read_raters(path, prompts) for path in files]
    _tell_apart(groups, files)
    if len(groups) == 1 and len(groups[0]) == 1:
        raise InputError(f"{files[0]} has only one rater, {groups[0][0].name!r}; name a second file to compare with")
    first_raters, *other_groups = groups
    reference = first_raters[0] if len(first_raters) == 1 else mean_rater(first_raters, files[0].stem)
    comparison = Comparison(prompts, num_resamples, seed)
    num_among = len(first_raters) if len(first_raters) > 1 else 0
    with progress("compare", num_among + sum(map(len, other_groups))) as advance:
        if num_among:
            comparison.among(first_raters)
            advance(num_among)
        for rater in itertools.chain(*other_groups):
            if not comparison.against(rater, reference):
                raise InputError(f"{rater.name!r} and {reference.name!r} have fewer than two clips or pairs in common")
            advance()
    if not comparison.rows:
        raise InputError(f"no two raters of {files[0]} have two clips or pairs in common")
    order = list(_PLURAL)
    return rows_to_table(sorted(comparison.rows, key=lambda row: order.index(row["scope"])), RELIABILITY)


def show_agreement(table: pa.Table) -> None:
    """Prints a table for every rater and what is rated: a line for every aspect and measure."""
    output, rows = Console(), table.to_pylist()
    for (scope, rater, reference), part in itertools.groupby(rows, _part):
        shown = Table("aspect", Column("measure", no_wrap=True), title_justify="left")
        shown.title = Text(f"{_PLURAL[scope]}: {rater} against {reference}", style="bold")
        for name in ("value", "95% interval", "count"):
            shown.add_column(name, justify="right")
        aspect, undefined = None, {}
        for row in part:
            name = row["aspect"].replace("_", " ") if row["aspect"] != aspect else ""
            aspect = row["aspect"]
            interval = show_interval(row["low"], row["high"], signed=False)
            shown.add_row(name, row["measure"], show_number(row["value"]), interval, str(row["count"]))
            if math.isnan(row["value"]):
                undefined[row["measure"]] = _WHY_UNDEFINED[row["measure"]]
        output.print(shown)
        for measure, reason in undefined.items():
            output.print(f"{measure} has no value: {reason}", highlight=False)


def _part(row: Row) -> tuple[str, str, str]:
    return row["scope"], row["rater"], row["reference"]


def _tell_apart(groups: Sequence[Sequence[Rater]], files: Sequence[Path]) -> None:
    """Puts the file's name before the names that several raters have."""
    names = Counter(rater.name for group in groups for rater in group)
    for group, path in zip(groups, files, strict=True):
        for rater in group:
            if names[rater.name] > 1:
                rater.name = f"{path.stem}: {rater.name}"


class Comparison:
    """Compares raters; `rows` collects what is found, rows of tables.RELIABILITY.

    Args:
        prompts: clip -> prompt. Clips of a prompt are resampled together, and pairs are formed within prompts;
            without it, clips are resampled one by one and all pairs count.
    """

    def __init__(self, prompts: Mapping[str, str], num_resamples: int, seed: int) -> None:
        self.rows: list[Row] = []
        self._prompts, self._num_resamples, self._seed = prompts, num_resamples, seed

    def against(self, rater: Rater, reference: Rater) -> bool:
        """Holds a rater against a reference, in every aspect that both have.

        Returns:
            Whether they have anything to compare: two clips or pairs in common.

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
        """How reliable several raters are: each against the mean of the others, and all together.

        A rater who shares fewer than two clips or pairs with the others is left out of the former, and named.
        """
        for rater in raters:
            others = mean_rater([other for other in raters if other is not rater], "the others")
            if not self.against(rater, others):
                console.print(f"{rater.name!r} shares fewer than two clips or pairs with the others: left out")
        for aspect in dict.fromkeys(aspect for rater in raters for aspect in rater.scores):
            of_aspect = [rater.scores[aspect] for rater in raters if aspect in rater.scores]
            self._alpha("clip", aspect, [scores.clips for scores in of_aspect])
            self._alpha("patch", aspect, [scores.patches for scores in of_aspect])
        self._alpha("pair", OVERALL, [rater.preferences for rater in raters])
        self._alpha("patch pair", OVERALL, [rater.patch_preferences for rater in raters])

    def _clips(self, aspect: str, rater: Rater, reference: Rater) -> None:
        """Scores of whole clips."""
        ours, theirs = rater.scores[aspect].clips, reference.scores[aspect].clips
        clips = sorted(ours.keys() & theirs.keys())
        if len(clips) < 2:
            return
        scores, truth = np.array([ours[clip] for clip in clips]), np.array([theirs[clip] for clip in clips])
        row_key = ("clip", aspect, rater.name, reference.name)
        groups = self._groups(clips)
        self._measure(row_key, "spearman", groups, lambda units: statistics.spearman(scores[units], truth[units]))
        self._measure(row_key, "kendall", groups, lambda units: statistics.kendall(scores[units], truth[units]))
        self._two_alphas(row_key, groups, scores, truth)
        self._pairs_of(row_key, clips, scores, truth)

    def _patches(self, aspect: str, rater: Rater, reference: Rater) -> None:
        """Scores of patches; a patch is defective when the reference rates it so."""
        ours, theirs = rater.scores[aspect].patches, reference.scores[aspect].patches
        clips = sorted(ours.keys() & theirs.keys())
        if len(clips) < 2:
            return
        sizes = {len(values[clip]) for values in (ours, theirs) for clip in clips}
        if len(sizes) > 1:
            raise InputError(
                f"{rater.name!r} and {reference.name!r} rate {sorted(sizes)} patches per clip; use one patch grid"
            )
        scores, truth = np.stack([ours[clip] for clip in clips]), np.stack([theirs[clip] for clip in clips])
        row_key = ("patch", aspect, rater.name, reference.name)
        groups = self._groups(clips)
        for name, measure in _PATCH_MEASURES.items():
            self._measure(row_key, name, groups, partial(_of_known_patches, measure, scores, truth))
        whole = np.flatnonzero(~np.isnan(scores + truth).any(1))  # pointing needs all patches of a clip
        for name, shown in (("pointing", scores), ("pointing by chance", np.zeros_like(scores))):
            pointing = partial(_pointing, shown[whole], truth[whole])
            self._measure(row_key, name, [groups[clip] for clip in whole], pointing)
        self._two_alphas(row_key, groups, scores, truth)

    def _pairs_of(self, row_key: RowKey, clips: Sequence[str], scores: Array, truth: Array) -> None:
        """Which of two clips is better, as the reference's ratings order them."""
        if any(clip in self._prompts for clip in clips):  # one whose prompt nobody tells is in no pair
            with_prompt = [index for index, clip in enumerate(clips) if clip in self._prompts]
            pairs = [
                pair for pair in itertools.combinations(with_prompt, 2)
                if self._prompts[clips[pair[0]]] == self._prompts[clips[pair[1]]]
            ]  # fmt: skip
            if pairs:
                first, second = np.array(pairs).T
                margins, wanted = scores[first] - scores[second], truth[first] - truth[second]
                self._accuracies(row_key, [self._prompts[clips[index]] for index in first], margins, wanted)
            return

        resamples = self._num_resamples if len(clips) <= _MOST_PAIRED else 0
        for name, measure in _ACCURACIES.items():
            self._measure(row_key, name, clips, partial(_accuracy_of_all, measure, scores, truth), resamples)

    def _preferences(self, rater: Rater, reference: Rater) -> None:
        """Pairs that the reference has compared: by the rater's own comparisons, or by the scores of both clips."""
        row_key = ("pair", OVERALL, rater.name, reference.name)
        whole = {pair: _margin(rater, pair) for pair in reference.preferences}
        self._compared(row_key, whole, reference.preferences)
        local = {pair: _patch_margins(rater, pair) for pair in reference.patch_preferences}
        self._compared(("patch pair", *row_key[1:]), local, reference.patch_preferences)

    def _compared(self, row_key: RowKey, margins: Mapping[Pair, Any], wanted: Mapping[Pair, Any]) -> None:
        """Accuracies on the pairs of which both sides know something: one value, or one for each patch."""
        known = [pair for pair, margin in margins.items() if margin is not None]
        for pair in known:
            if len(sizes := {np.size(margins[pair]), np.size(wanted[pair])}) > 1:
                raise InputError(
                    f"{row_key[2]!r} and {row_key[3]!r} compare {sorted(sizes)} patches of {pair}; use one patch grid"
                )
        if len(known) >= 2:
            groups = [
                self._prompts.get(pair[0], "/".join(pair)) for pair in known for _ in range(np.size(wanted[pair]))
            ]
            values, truth = (np.concatenate([np.ravel(side[pair]) for pair in known]) for side in (margins, wanted))
            rated = ~np.isnan(values + truth)
            self._accuracies(row_key, list(np.array(groups)[rated]), values[rated], truth[rated])

    def _accuracies(self, row_key: RowKey, groups: Sequence[str], margins: Array, wanted: Array) -> None:
        for name, measure in _ACCURACIES.items():
            self._measure(row_key, name, groups, partial(_accuracy_of, measure, margins, wanted))

    def _two_alphas(self, row_key: RowKey, groups: Sequence[str], scores: Array, truth: Array) -> None:
        """Krippendorff's alpha of two raters: whether they mean the same by a rating."""
        self._alphas(row_key, groups, np.stack([scores, truth]).reshape(2, len(groups), -1))

    def _alpha(self, scope: str, aspect: str, ratings: Sequence[Mapping[Any, Any]]) -> None:
        """Krippendorff's alpha of all raters on all that at least two of them have rated."""
        counts: dict[Any, int] = {}
        for of_rater in ratings:
            for unit in of_rater:
                counts[unit] = counts.get(unit, 0) + 1
        units = sorted(unit for unit, count in counts.items() if count > 1)
        if not units:
            return
        size = max(np.size(of_rater[unit]) for of_rater in ratings for unit in units if unit in of_rater)
        values = np.full((len(ratings), len(units), size), math.nan)
        for rater, of_rater in enumerate(ratings):
            for index, unit in enumerate(units):
                if unit in of_rater:
                    values[rater, index] = of_rater[unit]
        groups = self._groups([unit if isinstance(unit, str) else unit[0] for unit in units])
        row_key = (scope, aspect, "all", EACH_OTHER)
        self._alphas(row_key, groups, values)

    def _alphas(self, row_key: RowKey, groups: Sequence[str], values: Array) -> None:
        """Alpha of ratings [raters, units, values of a unit], at both levels."""
        for level in get_args(reliability.Level):
            self._measure(row_key, f"alpha {level}", groups, partial(_alpha_of, values, level))

    def _groups(self, clips: Sequence[str]) -> list[str]:
        """What is resampled together: the clips of a prompt."""
        return [self._prompts.get(clip, clip) for clip in clips]

    def _measure(
        self,
        row_key: RowKey,
        name: str,
        groups: Sequence[str],
        measure: Callable[[Units], float],
        num_resamples: int | None = None,
    ) -> None:
        """Adds one row."""
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
    """A measure over the patches of some clips, without those that a side has not rated."""
    known = ~np.isnan(scores[units] + truth[units])
    return measure(scores[units][known], truth[units][known])


def _pointing(scores: Array, truth: Array, units: Units) -> float:
    return reliability.pointing_game(scores[units], truth[units] < DEFECT_RATING)


def _accuracy_of(measure: Accuracy, margins: Array, wanted: Array, units: Units) -> float:
    return measure(margins[units], wanted[units])


def _accuracy_of_all(measure: Accuracy, scores: Array, truth: Array, units: Units) -> float:
    """Accuracy on all pairs of some clips; a clip that was drawn twice is no pair."""
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
    """How much better a rater finds the first of two clips; None where it has not rated both."""
    if pair in rater.preferences:
        return rater.preferences[pair]
    clips = rater.scores[OVERALL].clips if OVERALL in rater.scores else {}
    return clips[pair[0]] - clips[pair[1]] if pair[0] in clips and pair[1] in clips else None


def _patch_margins(rater: Rater, pair: Pair) -> Array | None:
    """The same for each patch."""
    if pair in rater.patch_preferences:
        return rater.patch_preferences[pair]
    patches = rater.scores[OVERALL].patches if OVERALL in rater.scores else {}
    return patches[pair[0]] - patches[pair[1]] if pair[0] in patches and pair[1] in patches else None
