"""The findings of a study: every method compared with the base and with a rival method, as tables and figures.

Everything is computed from results.parquet and the chosen steps, so anyone who has them can compute it again.
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
_CHARTS_PER_ROW = 3
_STEPS_PER_POINT = 10  # steps whose mean is one point of a training curve
_ERROR_CURVES = {  # measure in log.jsonl -> title of its chart
    "errors/chosen": "error of chosen clips, against the reference",
    "errors/rejected": "error of rejected clips, against the reference",
    "errors/winning_patches": "error of winning patches, against the reference",
}
_DIRECTIONS = {"lower": "less is better", "higher": "more is better", "same": "should stay"}
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
    """The rows of tables.STUDY, grouped by setting, method, measure and step: one value per seed and prompt.

    steps: method -> the step that its tuning chose; results after other steps are points of curves.

    Raises:
        InputError: a row has an unknown measure.
    """

    def __init__(self, results: pa.Table, steps: Mapping[str, int]) -> None:
        self.steps = dict(steps)
        self._values: dict[tuple[str, str, str, int], dict[int, dict[str, float]]] = {}
        for row in results.to_pylist():
            is_base = row["model"] == BASE
            method, step, seed = (BASE, 0, 0) if is_base else (row["method"], row["step"], row["seed"])
            seeds = self._values.setdefault((row["setting"], method, row["measure"], step), {})
            seeds.setdefault(seed, {})[row["prompt_id"]] = row["value"]
        self.settings = list(dict.fromkeys(results["setting"].to_pylist()))
        pairs = set(zip(results["setting"].to_pylist(), results["prompt_id"].to_pylist(), strict=True))
        self._prompts = {name: sorted(prompt for setting, prompt in pairs if setting == name) for name in self.settings}
        measured = {require_measure(measure) for _, _, measure, _ in self._values}
        headline = headline_measure(measured)
        self.measures = sorted((key for key in MEASURES if key in measured), key=lambda key: key != headline)

    def values(self, setting: str, method: str, measure: str, step: int | None = None) -> Values | None:
        """Values [seeds, prompts], NaN where a clip could not be measured; None if there are no such results.

        Columns are the sorted prompts of the setting, the same for all methods. `step` defaults to the tuned one.
        """
        if step is None:
            step = 0 if method == BASE else self.steps[method]
        seeds = self._values.get((setting, method, measure, step))
        if seeds is None:
            return None
        prompts = self._prompts[setting]
        return np.array([[of_seed.get(prompt, math.nan) for prompt in prompts] for _, of_seed in sorted(seeds.items())])

    def curve(self, setting: str, method: str, measure: str) -> list[tuple[int, float]]:
        """(step, mean over prompts of the first seed) for every measured step, in order."""
        steps = sorted(key[3] for key in self._values if key[:3] == (setting, method, measure))
        measured = ((step, self.values(setting, method, measure, step)) for step in steps)
        return [(step, float(np.nanmean(values[0]))) for step, values in measured if values is not None]


def compare_methods(results: Results, rival: str | None, num_resamples: int = 10_000) -> pa.Table:
    """Rows of tables.COMPARISON: each method against the base and, when one is named, against a rival.

    Intervals are paired bootstraps over prompts of the mean over seeds; `lowest_seed` and `highest_seed` show how far
    seeds differ. A prompt that only one side has is left out, and so is a measure with fewer than two common prompts.
    """
    rows: list[Row] = []
    for setting in results.settings:
        for against in (BASE, *([rival] if rival else [])):
            for method in results.steps:
                for measure in results.measures:
                    values = results.values(setting, method, measure)
                    opponent = results.values(setting, against, measure)
                    if method != against and values is not None and opponent is not None:
                        key = {"setting": setting, "method": method, "against": against, "measure": measure}
                        rows += _comparison_rows(key, values, opponent, results.steps[method], num_resamples)
    return rows_to_table(rows, COMPARISON)


def _comparison_rows(key: Row, values: Values, opponent: Values, step: int, num_resamples: int) -> list[Row]:
    """One row, or none with fewer than two common prompts; `values` and `opponent` are [seeds, prompts]."""
    measured_in_both = np.isfinite(values).all(0) & np.isfinite(opponent).all(0)
    if measured_in_both.sum() < 2:
        return []
    values, opponent = values[:, measured_in_both], opponent[:, measured_in_both]
    change = statistics.paired_bootstrap(opponent.T, values.T, num_resamples)
    measure = MEASURES[key["measure"]]
    reduction = statistics.Interval(math.nan, math.nan, math.nan)
    if measure.better == "lower" and opponent.any() and min(values.min(), opponent.min()) >= 0:
        reduction = statistics.paired_ratio(opponent.T, values.T, num_resamples)
    return [
        key
        | {"group": measure.group, "unit": measure.unit, "better": measure.better}
        | {"seeds": len(values), "step": step, "prompts": int(measured_in_both.sum())}
        | {"value": values.mean(), "lowest_seed": values.mean(1).min(), "highest_seed": values.mean(1).max()}
        | {"other": opponent.mean(), "difference": change.mean, "low": change.low, "high": change.high}
        | {"reduction": reduction.mean, "reduction_low": reduction.low, "reduction_high": reduction.high}
    ]


def write_figures(results: Results, comparison: pa.Table, folder: Path) -> None:
    """Draws methods.svg, settings.svg if there are several settings, and steps.svg if there are curves."""
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
        curves = {
            measure: {method: results.curve(first, method, measure) for method in results.steps} for measure in measures
        }
        if any(len(points) > 1 for lines in curves.values() for points in lines.values()):
            figure, charts = _charts(measures, 2.2)
            for measure, axes in charts.items():
                start = results.values(first, BASE, measure)
                _draw_curves(axes, curves[measure], None if start is None else float(np.nanmean(start)))
            _save(figure, folder / "steps.svg", charts[measures[0]])


def write_training_figure(log: pa.Table, folder: Path) -> None:
    """Draws training.svg: the errors of chosen and rejected clips relative to the reference, one line per method.

    A rising error of the chosen clips is likelihood displacement: the clips that should get likelier get less likely.
    """
    rows = log.to_pylist()
    if not rows:
        return
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4 * len(_ERROR_CURVES), 2.6), layout="constrained")
        for number, (name, title) in enumerate(_ERROR_CURVES.items(), start=1):
            axes = figure.add_subplot(1, len(_ERROR_CURVES), number)
            axes.set_title(title)
            axes.set_xlabel("step")
            for method in dict.fromkeys(row["method"] for row in rows):
                logged = [row["value"] for row in rows if (row["method"], row["measure"]) == (method, name)]
                values = np.array(logged[: len(logged) // _STEPS_PER_POINT * _STEPS_PER_POINT])
                smooth = values.reshape(-1, _STEPS_PER_POINT).mean(1)
                axes.plot(_STEPS_PER_POINT * (1 + np.arange(len(smooth))), smooth, label=method)
        _save(figure, folder / "training.svg", axes)


def _charts(measures: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one small chart per measure, and measure -> its axes; `height` is that of a chart, in inches."""
    num_rows = math.ceil(len(measures) / _CHARTS_PER_ROW)
    figure = Figure(figsize=(4 * _CHARTS_PER_ROW, height * num_rows), layout="constrained")
    charts = {
        measure: figure.add_subplot(num_rows, _CHARTS_PER_ROW, index) for index, measure in enumerate(measures, start=1)
    }
    for measure, axes in charts.items():
        axes.set_title(f"{_with_unit(measure)}\n({_DIRECTIONS[MEASURES[measure].better]})", fontsize="medium")
    return figure, charts


def _draw_methods(axes: Axes, rows: Sequence[Row]) -> None:
    """Draws a point per method with the interval of its difference from the base, and a vertical line at the base."""
    if not rows:
        return
    heights = np.arange(len(rows))
    value = np.array([row["value"] for row in rows])
    to_interval_ends = np.array([[row["difference"] - row["low"], row["high"] - row["difference"]] for row in rows]).T
    axes.axvline(rows[0]["other"], color="grey", linestyle=":", linewidth=1)
    axes.errorbar(value, heights, xerr=to_interval_ends.clip(min=0), fmt="o", markersize=4, linewidth=1.2)
    seeds = [[row[end] for row in rows] for end in ("lowest_seed", "highest_seed")]
    axes.hlines(heights, seeds[0], seeds[1], linewidth=4, alpha=0.3)
    axes.set_yticks(heights, [row["method"] for row in rows])
    axes.invert_yaxis()
    axes.locator_params("x", nbins=5)


def _draw_settings(axes: Axes, rows: Sequence[Row], settings: Sequence[str]) -> None:
    """Draws a line per method over the settings, in the order of the study."""
    for method in dict.fromkeys(row["method"] for row in rows):
        by_setting = {row["setting"]: row["value"] for row in rows if row["method"] == method}
        axes.plot(list(settings), [by_setting.get(name, math.nan) for name in settings], marker="o", label=method)
    axes.tick_params("x", rotation=20)


def _draw_curves(axes: Axes, curves: Mapping[str, list[tuple[int, float]]], start: float | None) -> None:
    """Draws a line per method over the steps; `start`, the mean of the base, is its point at step 0."""
    origin = [] if start is None else [(0, start)]
    for method, points in curves.items():
        if len(points) > 1:
            axes.plot(*zip(*origin, *points, strict=True), marker=".", label=method)
    axes.set_xlabel("step")


def _save(figure: Figure, path: Path, legend_of: Axes | None = None) -> None:
    """Writes a figure as SVG, with a legend of the lines in the chart `legend_of`, if given."""
    if legend_of is not None:
        handles, labels = legend_of.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def markdown(comparison: pa.Table) -> str:
    """The comparison as Markdown: a table for each setting and opponent, a row for each method."""
    rows = [row for row in comparison.to_pylist() if not MEASURES[row["measure"]].defect_kind]
    parts = []
    for setting, against in dict.fromkeys((row["setting"], row["against"]) for row in rows):
        table_rows = [row for row in rows if (row["setting"], row["against"]) == (setting, against)]
        measures = list(dict.fromkeys(row["measure"] for row in table_rows))
        parts.append(f"### {setting}: against {against}\n\n{_explanation(table_rows)}\n")
        titles = [MEASURES[key].title for key in measures]
        parts.append("| method | seeds | step | " + " | ".join(titles) + " |\n|" + "---|" * (3 + len(measures)))
        opponent_means = {row["measure"]: row["other"] for row in table_rows}
        parts.append(f"| *{against}* | | | " + " | ".join(show_number(opponent_means[key]) for key in measures) + " |")
        for method in dict.fromkeys(row["method"] for row in table_rows):
            cells = {row["measure"]: row for row in table_rows if row["method"] == method}
            of_method = next(iter(cells.values()))  # seeds and step are the same in all cells of a method
            texts = [_cell(cells[key]) if key in cells else "" for key in measures]
            parts.append(f"| {method} | {of_method['seeds']} | {of_method['step'] or ''} | " + " | ".join(texts) + " |")
        parts.append("")
    return "\n".join(parts)


def _explanation(rows: Sequence[Row]) -> str:
    """A sentence that says what the cells hold, and one that names the headline measure."""
    headline = headline_measure({row["measure"] for row in rows})
    prompts = sorted({row["prompts"] for row in rows})
    size = f"{prompts[0]} prompts" if len(prompts) == 1 else f"{prompts[0]} to {prompts[-1]} prompts"
    first = f" The headline is {_with_unit(headline)}: {_DIRECTIONS[MEASURES[headline].better]}." if headline else ""
    return f"Mean, and the 95% interval of the difference, over {size}.{first}"


def _with_unit(measure_id: str) -> str:
    """The title of a measure with its unit."""
    measure = MEASURES[measure_id]
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def _cell(row: Row) -> str:
    """The mean and the interval of the difference, such as 17.3 (-15.1 to -11.0)."""
    return f"{show_number(row['value'])} ({show_interval(row['low'], row['high'])})"
