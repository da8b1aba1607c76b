"""What a study found: every method held against the base and against a rival, as a table and as pictures.

All of it is computed from results.parquet and the chosen steps, so that anyone who has them can compute it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from halovid.maths import statistics
from halovid.maths.numbers import show_interval, show_number
from halovid.measuring.headline import headline_measure
from halovid.measuring.instruments import MEASURES, require_measure
from halovid.store.files import atomic_path
from halovid.store.tables import COMPARISON, rows_to_table

Row = dict[str, Any]
Values = NDArray[np.float64]

BASE = "base"
_COLUMNS = 3  # of small charts
_SMOOTH = 10  # steps that are one point of a training's curve
_TRAINING = {
    "errors/chosen": "error of chosen clips, against the reference",
    "errors/rejected": "error of rejected clips, against the reference",
    "errors/winning_patches": "error of winning patches, against the reference",
}
_WISHES = {"lower": "less is better", "higher": "more is better", "same": "should stay"}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "study",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
}


class Results:
    """The rows of tables.STUDY by cell: one value per prompt and seed.

    steps: method -> the step that its tuning chose; results after other steps belong to curves.

    Raises:
        InputError: the rows name a measure that there is not.
    """

    def __init__(self, results: pa.Table, steps: Mapping[str, int]) -> None:
        self.steps = dict(steps)
        self._values: dict[tuple[str, str, str, int], dict[int, dict[str, float]]] = {}
        for row in results.to_pylist():
            base = row["model"] == BASE
            name, step = (BASE, 0) if base else (row["method"], row["step"])
            seeds = self._values.setdefault((row["setting"], name, row["measure"], step), {})
            seeds.setdefault(0 if base else row["seed"], {})[row["prompt_id"]] = row["value"]
        self.settings = list(dict.fromkeys(results["setting"].to_pylist()))
        pairs = set(zip(results["setting"].to_pylist(), results["prompt_id"].to_pylist(), strict=True))
        self._prompts = {name: sorted(prompt for setting, prompt in pairs if setting == name) for name in self.settings}
        measured = {require_measure(measure) for _, _, measure, _ in self._values}
        headline = headline_measure(measured)
        self.measures = sorted((key for key in MEASURES if key in measured), key=lambda key: key != headline)

    def values(self, setting: str, method: str, measure: str, step: int | None = None) -> Values | None:
        """[seeds, prompts], NaN where a clip could not be measured; None without such results.

        Columns are the prompts of the setting in sorted order, the same for all methods. Without a step, after the
        step that tuning chose.
        """
        if step is None:
            step = 0 if method == BASE else self.steps[method]
        seeds = self._values.get((setting, method, measure, step))
        if seeds is None:
            return None
        prompts = self._prompts[setting]
        return np.array([[row.get(prompt, math.nan) for prompt in prompts] for _, row in sorted(seeds.items())])

    def curve(self, setting: str, method: str, measure: str) -> list[tuple[int, float]]:
        """The mean of the first seed after each step that was measured, in order."""
        steps = sorted(key[3] for key in self._values if key[:3] == (setting, method, measure))
        measured = ((step, self.values(setting, method, measure, step)) for step in steps)
        return [(step, float(np.nanmean(values[0]))) for step, values in measured if values is not None]


def compare_methods(results: Results, rival: str | None, num_resamples: int = 10_000) -> pa.Table:
    """Rows of tables.COMPARISON: each method against the base and, when one is named, against a rival.

    Intervals are paired bootstraps over prompts of the mean over seeds; how far seeds differ is told by the lowest and
    highest mean of a seed. Prompts that one side lacks are left out; a measure of fewer than two prompts too.
    """
    rows: list[Row] = []
    for setting in results.settings:
        for against in (BASE, *([rival] if rival else [])):
            for method in results.steps:
                for measure in results.measures:
                    ours, theirs = results.values(setting, method, measure), results.values(setting, against, measure)
                    if method != against and ours is not None and theirs is not None:
                        key = {"setting": setting, "method": method, "against": against, "measure": measure}
                        rows += _compared(key, ours, theirs, results.steps[method], num_resamples)
    return rows_to_table(rows, COMPARISON)


def _compared(key: Row, ours: Values, theirs: Values, step: int, num_resamples: int) -> list[Row]:
    """One row, or none with fewer than two prompts in common; values are [seeds, prompts]."""
    both = np.isfinite(ours).all(0) & np.isfinite(theirs).all(0)
    if both.sum() < 2:
        return []
    ours, theirs = ours[:, both], theirs[:, both]
    change = statistics.paired_bootstrap(theirs.T, ours.T, num_resamples)
    measure = MEASURES[key["measure"]]
    fewer = statistics.Interval(math.nan, math.nan, math.nan)
    if measure.better == "lower" and theirs.any() and min(ours.min(), theirs.min()) >= 0:
        fewer = statistics.paired_ratio(theirs.T, ours.T, num_resamples)
    return [
        key
        | {"group": measure.group, "unit": measure.unit, "better": measure.better}
        | {"seeds": len(ours), "step": step, "prompts": int(both.sum())}
        | {"value": ours.mean(), "lowest_seed": ours.mean(1).min(), "highest_seed": ours.mean(1).max()}
        | {"other": theirs.mean(), "difference": change.mean, "low": change.low, "high": change.high}
        | {"reduction": fewer.mean, "reduction_low": fewer.low, "reduction_high": fewer.high}
    ]


def write_figures(results: Results, comparison: pa.Table, folder: Path) -> None:
    """Draws methods.svg; with several settings settings.svg; with curves steps.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    measures = [key for key in results.measures if not MEASURES[key].defect_kind]
    first = results.settings[0]
    rows = [row for row in comparison.to_pylist() if row["against"] == BASE]
    with matplotlib.rc_context(_STYLE):
        first_rows = [row for row in rows if row["setting"] == first]
        if first_rows:
            figure, charts = _charts(measures, 0.8 + 0.2 * len(results.steps))
            for measure, axes in charts.items():
                _draw_methods(axes, [row for row in first_rows if row["measure"] == measure])
            _save(figure, folder / "methods.svg")
        if len(results.settings) > 1:
            figure, charts = _charts(measures, 2.2)
            for measure, axes in charts.items():
                _draw_settings(axes, [row for row in rows if row["measure"] == measure], results.settings)
            _save(figure, folder / "settings.svg", charts[measures[0]])
        curves = {m: {name: results.curve(first, name, m) for name in results.steps} for m in measures}
        if any(len(points) > 1 for lines in curves.values() for points in lines.values()):
            figure, charts = _charts(measures, 2.2)
            for measure, axes in charts.items():
                start = results.values(first, BASE, measure)
                _draw_curves(axes, curves[measure], None if start is None else float(np.nanmean(start)))
            _save(figure, folder / "steps.svg", charts[measures[0]])


def write_training_figure(log: pa.Table, folder: Path) -> None:
    """Draws training.svg: how the errors of chosen and rejected clips move against the reference, method by method.

    Likelihood displacement is the first of them going up: the clips that should become likelier do not.
    """
    rows = log.to_pylist()
    if not rows:
        return
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4 * len(_TRAINING), 2.6), layout="constrained")
        for number, (name, title) in enumerate(_TRAINING.items(), start=1):
            axes = figure.add_subplot(1, len(_TRAINING), number)
            axes.set_title(title)
            axes.set_xlabel("step")
            for method in dict.fromkeys(row["method"] for row in rows):
                logged = [row["value"] for row in rows if (row["method"], row["measure"]) == (method, name)]
                values = np.array(logged[: len(logged) // _SMOOTH * _SMOOTH])
                smooth = values.reshape(-1, _SMOOTH).mean(1)
                axes.plot(_SMOOTH * (1 + np.arange(len(smooth))), smooth, label=method)
        _save(figure, folder / "training.svg", axes)


def _charts(measures: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a small chart for each measure; height is a chart's, in inches."""
    num_rows = math.ceil(len(measures) / _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, height * num_rows), layout="constrained")
    charts = {measure: figure.add_subplot(num_rows, _COLUMNS, index) for index, measure in enumerate(measures, start=1)}
    for key, axes in charts.items():
        axes.set_title(f"{_with_unit(key)}\n({_WISHES[MEASURES[key].better]})", fontsize="medium")
    return figure, charts


def _draw_methods(axes: Axes, rows: Sequence[Row]) -> None:
    """A point per method with the interval of its difference from the base, and a line where the base is."""
    if not rows:
        return
    lines = np.arange(len(rows))
    value = np.array([row["value"] for row in rows])
    reach = np.array([[row["difference"] - row["low"], row["high"] - row["difference"]] for row in rows]).T
    axes.axvline(rows[0]["other"], color="grey", linestyle=":", linewidth=1)
    axes.errorbar(value, lines, xerr=reach.clip(min=0), fmt="o", markersize=4, linewidth=1.2)
    seeds = [[row[end] for row in rows] for end in ("lowest_seed", "highest_seed")]
    axes.hlines(lines, seeds[0], seeds[1], linewidth=4, alpha=0.3)
    axes.set_yticks(lines, [row["method"] for row in rows])
    axes.invert_yaxis()
    axes.locator_params("x", nbins=5)


def _draw_settings(axes: Axes, rows: Sequence[Row], settings: Sequence[str]) -> None:
    """A line per method over the settings, in the order of the study."""
    for method in dict.fromkeys(row["method"] for row in rows):
        by_setting = {row["setting"]: row["value"] for row in rows if row["method"] == method}
        axes.plot(list(settings), [by_setting.get(name, math.nan) for name in settings], marker="o", label=method)
    axes.tick_params("x", rotation=20)


def _draw_curves(axes: Axes, curves: Mapping[str, list[tuple[int, float]]], start: float | None) -> None:
    """A line per method over the steps; the base is step 0."""
    origin = [] if start is None else [(0, start)]
    for method, points in curves.items():
        if len(points) > 1:
            axes.plot(*zip(*origin, *points, strict=True), marker=".", label=method)
    axes.set_xlabel("step")


def _save(figure: Figure, path: Path, keyed: Axes | None = None) -> None:
    """Writes a figure, with the key of the lines of one of its charts."""
    if keyed is not None:
        handles, labels = keyed.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def markdown(comparison: pa.Table) -> str:
    """The comparison for people: a table for each setting and opponent, a row for each method."""
    rows = [row for row in comparison.to_pylist() if not MEASURES[row["measure"]].defect_kind]
    parts = []
    for setting, against in dict.fromkeys((row["setting"], row["against"]) for row in rows):
        part = [row for row in rows if (row["setting"], row["against"]) == (setting, against)]
        measures = list(dict.fromkeys(row["measure"] for row in part))
        parts.append(f"### {setting}: against {against}\n\n{_explanation(part)}\n")
        titles = [MEASURES[key].title for key in measures]
        parts.append("| method | seeds | step | " + " | ".join(titles) + " |\n|" + "---|" * (3 + len(measures)))
        others = {row["measure"]: row["other"] for row in part}
        parts.append(f"| *{against}* | | | " + " | ".join(show_number(others[key]) for key in measures) + " |")
        for method in dict.fromkeys(row["method"] for row in part):
            cells = {row["measure"]: row for row in part if row["method"] == method}
            some = next(iter(cells.values()))
            texts = [_cell(cells[key]) if key in cells else "" for key in measures]
            parts.append(f"| {method} | {some['seeds']} | {some['step'] or ''} | " + " | ".join(texts) + " |")
        parts.append("")
    return "\n".join(parts)


def _explanation(rows: Sequence[Row]) -> str:
    """What the cells of a table are, and which column to read first."""
    headline = headline_measure({row["measure"] for row in rows})
    prompts = sorted({row["prompts"] for row in rows})
    size = f"{prompts[0]} prompts" if len(prompts) == 1 else f"{prompts[0]} to {prompts[-1]} prompts"
    first = f" The headline is {_with_unit(headline)}: {_WISHES[MEASURES[headline].better]}." if headline else ""
    return f"Mean, and the 95% interval of the difference, over {size}.{first}"


def _with_unit(measure_id: str) -> str:
    """The title of a measure with its unit."""
    measure = MEASURES[measure_id]
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def _cell(row: Row) -> str:
    """Value and interval of the difference, as in 17.3 (-15.1 to -11.0)."""
    return f"{show_number(row['value'])} ({show_interval(row['low'], row['high'])})"
