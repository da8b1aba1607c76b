"""Runs a study: every combination of method, setting and seed goes through the ordinary stages, into one table.

    halovid study STUDY.yaml OUT

A cell is one such combination, trained and evaluated. All cells share one run folder, OUT/run: stages with equal
settings are run once, and `store.folders` sets the results of other settings aside and brings them back. So a killed
study continues, and a method that is added later costs only its own cells.

1. Tuning. Every combination of a method's `tune` values is trained once, for the longest of `tuning.steps`; each of its
   snapshots is measured on validation prompts by the judge that labels the training data, never by the truth.
2. Cells. The best settings and step of each method are trained with every seed under every setting of the study and
   measured on the held-out prompts, which nothing has touched before.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from pydantic import Field, field_validator, model_validator

from halovid.config.recipes import anchor_paths, anchored, changed, load_config, read_yaml, validated
from halovid.config.run import RunConfig
from halovid.config.sections import Section, Seed, Steps
from halovid.measuring.instruments import MEASURES, require_measure
from halovid.stages import required_stages, run_stage
from halovid.store.errors import InputError, shorten
from halovid.store.files import atomic_path, write_json, write_text
from halovid.store.manifests import read_log, versions
from halovid.store.runtime import console
from halovid.store.tables import MEASURES as MEASURES_TABLE
from halovid.store.tables import STUDY, TRAINING, TUNING, read_table, rows_to_table, write_table
from halovid.study.findings import BASE, Results, compare_methods, markdown, write_figures, write_training_figure

Changes = dict[str, Any]
_MAX_COMBINATIONS = 1000  # of tuned values, per method


class MethodConfig(Section):
    """A method: what it changes in the recipe, and which settings are tuned over which values."""

    change: Changes = Field(default_factory=dict, description="nested settings of the recipe")
    tune: dict[str, list[Any]] = Field(default_factory=dict, description="dotted setting -> values to try")
    train: bool = Field(True, description="false for methods that only sample differently")


class TuningConfig(Section):
    """How methods are tuned: all by the same measure, on the same validation prompts, with the same budget."""

    change: Changes = Field(default_factory=dict, description="validation prompts, instruments")
    steps: tuple[Steps, ...] = Field(
        (400,), min_length=1, max_length=1000, description="steps after which training may stop"
    )
    seed: Seed = Field(1000, description="seed of the trainings; not one of the study's")
    measure: str = Field("judge_rating", description="id of the measure that should become better")

    @field_validator("measure")
    @classmethod
    def _tells_better_from_worse(cls, measure: str) -> str:
        try:
            better = MEASURES[require_measure(measure)].better
        except InputError as error:
            raise ValueError(str(error)) from error
        if better == "same":
            raise ValueError(f"{measure!r} should stay as it is: name a measure of which less or more is better")
        return measure


class StudyConfig(Section):
    """A study: the recipe that all cells start from, and the methods, settings and seeds that are combined."""

    recipe: Path = Field(description="the recipe that every cell starts from, relative to the study's file")
    change: Changes = Field(default_factory=dict, description="what the whole study changes in it")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, max_length=1000, description="seeds of the alignment")
    methods: dict[str, MethodConfig] = Field(min_length=1)
    settings: dict[str, Changes] = Field({"default": {}}, min_length=1)
    tuning: TuningConfig = TuningConfig()
    curve: tuple[Steps, ...] = Field(
        (), max_length=1000, description="steps at which the first seed is measured as well"
    )
    rival: str | None = Field(None, description="a method that the others are held against, besides the base")

    @model_validator(mode="after")
    def _known_rival(self) -> StudyConfig:
        if self.rival is not None and self.rival not in self.methods:
            raise ValueError(f"rival {self.rival!r} is none of the methods {', '.join(self.methods)}")
        return self


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation after `step`; `config` holds all settings of both."""

    method: str
    setting: str
    seed: int
    step: int
    config: RunConfig


def load_study(path: Path) -> tuple[StudyConfig, RunConfig]:
    """A study, and the configuration that all its cells start from.

    Raises:
        InputError: a file can't be read, a key or value is not allowed, or methods have unequal tuning budgets.
    """
    study = validated(StudyConfig, read_yaml(path))
    _anchor_changes(study, path.parent)
    budgets = {name: math.prod(map(len, method.tune.values())) for name, method in study.methods.items() if method.tune}
    if len(set(budgets.values())) > 1:
        raise InputError(f"the methods of {path} have unequal tuning budgets {budgets}; give each as many combinations")
    if study.tuning.seed in study.seeds:
        raise InputError(f"tuning.seed {study.tuning.seed} is one of the study's seeds; tune with another")
    if any(not 1 <= budget <= _MAX_COMBINATIONS for budget in budgets.values()):
        raise InputError(
            f"the methods of {path} are tuned over {budgets} combinations; allowed are 1 to {_MAX_COMBINATIONS}"
        )
    recipe = changed(load_config(path.parent / study.recipe), study.change)
    for name, method in study.methods.items():
        for change in combinations(method.tune):
            _check_changes(f"{path}, method {shorten(name)!r}", recipe, method.change, change, study.tuning.change)
        for setting, change in study.settings.items():
            subject = f"{path}, method {shorten(name)!r}, setting {shorten(setting)!r}"
            _check_changes(subject, recipe, method.change, next(combinations(method.tune)), change)
    return study, recipe


def _anchor_changes(study: StudyConfig, folder: Path) -> None:
    """Makes relative paths in a study's changes start from the folder of the study's file."""
    methods = study.methods.values()
    for change in (study.change, study.tuning.change, *(method.change for method in methods), *study.settings.values()):
        anchor_paths(change, folder)
    for method in methods:
        for setting, values in method.tune.items():
            values[:] = [anchored(setting, value, folder) for value in values]


def _check_changes(subject: str, recipe: RunConfig, *changes: Changes) -> None:
    """Raises InputError, before anything is run, when the recipe with these changes is not valid."""
    try:
        changed(recipe, *changes)
    except InputError as error:
        raise InputError(f"{subject}: {error}") from error


def run_study(path: Path, out: Path) -> pa.Table:
    """Runs what is missing of a study, writes OUT, and returns the results: rows of tables.STUDY.

    Writes OUT/tuning.parquet, OUT/chosen.json (the tuned settings), OUT/results.parquet, OUT/training.parquet (the logs
    of the first seed's trainings); at the end `write_findings`.
    """
    study, recipe = load_study(path)
    chosen = _tune_methods(study, recipe, out)
    results, logs = _run_cells(study, recipe, chosen, out)
    steps = {method: best["step"] for method, best in chosen.items()}
    write_findings(results, steps, study.rival, f"halovid study {path} {out}", out)
    write_training_figure(logs, out)
    return results


def _tune_methods(study: StudyConfig, recipe: RunConfig, out: Path) -> dict[str, Changes]:
    """Method -> its best {change, step} by the tuning measure; writes OUT/tuning.parquet and OUT/chosen.json."""
    chosen: dict[str, Changes] = {}
    tried: list[dict[str, Any]] = []
    sign = -1 if MEASURES[study.tuning.measure].better == "lower" else 1
    for name, method in study.methods.items():
        rows = list(_tune(name, method, study, recipe, out / "run"))
        tried += [row | {"change": _one_line(row["change"])} for row in rows]
        write_table(out / "tuning.parquet", rows_to_table(tried, TUNING))
        best = max(rows, key=lambda row: sign * row["value"])
        chosen[name] = {"change": best["change"], "step": best["step"]}
        write_json(out / "chosen.json", chosen)
    return chosen


def _run_cells(
    study: StudyConfig, recipe: RunConfig, chosen: dict[str, Changes], out: Path
) -> tuple[pa.Table, pa.Table]:
    """The results of all cells and the logs of the first seed's trainings, also written to OUT after every cell."""
    results: list[pa.Table] = []
    logs: list[pa.Table] = [TRAINING.empty_table()]
    cells = list(_cells(study, recipe, chosen))
    settings_with_base: set[str] = set()
    for number, cell in enumerate(cells, start=1):
        console.rule(
            f"cell {number} of {len(cells)}: {cell.method}, {cell.setting}, seed {cell.seed}, step {cell.step}"
        )
        measured = _run_and_measure(cell, out / "run")
        if cell.setting in settings_with_base:  # all cells of a setting have the same base
            measured = measured.filter(pc.not_equal(measured["model"], BASE))
        settings_with_base.add(cell.setting)
        results.append(measured)
        trains = study.methods[cell.method].train
        if trains and cell.seed == study.seeds[0] and cell.step == chosen[cell.method]["step"]:
            logs.append(_training_log(cell, out / "run"))
        write_table(out / "results.parquet", pa.concat_tables(results))
        write_table(out / "training.parquet", pa.concat_tables(logs))
    return pa.concat_tables(results), pa.concat_tables(logs)


def write_findings(results: pa.Table, steps: dict[str, int], rival: str | None, command: str, out: Path) -> None:
    """Writes results.csv, comparison.parquet, comparison.csv, comparison.md and the figures to `out`.

    comparison.md ends with the command, the versions of packages and the machine.
    """
    grouped = Results(results, steps)
    comparison = compare_methods(grouped, rival)
    write_table(out / "comparison.parquet", comparison)
    for name, table in (("results", results), ("comparison", comparison)):
        with atomic_path(out / f"{name}.csv") as temporary:
            pyarrow.csv.write_csv(table, temporary)
    write_figures(grouped, comparison, out)
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    write_text(out / "comparison.md", f"{markdown(comparison)}\n`{command}`; {packages}; {machine}\n")


def _tune(name: str, method: MethodConfig, study: StudyConfig, recipe: RunConfig, run_dir: Path) -> Iterator[Changes]:
    """{method, change, step, value} of every combination and step; value: the measure's mean on validation prompts."""
    tuning = study.tuning
    if not method.train or not method.tune:
        yield {"method": name, "change": {}, "step": tuning.steps[-1] if method.train else 0, "value": float("nan")}
        return
    for change in combinations(method.tune):
        for step in tuning.steps:
            training = {"seed": tuning.seed, "steps": max(tuning.steps), "snapshots": list(tuning.steps)}
            config = changed(
                recipe, method.change, change, {"align": training}, tuning.change, {"evaluate": {"step": step}}
            )
            console.rule(f"tuning {name}: {_one_line(change)}, step {step}")
            cell = Cell(name, "tuning", tuning.seed, step, config)
            results = _run_and_measure(cell, run_dir)
            by_measure = pc.and_(pc.equal(results["measure"], tuning.measure), pc.equal(results["model"], "aligned"))
            values = results.filter(by_measure)["value"].to_numpy()
            if not len(values):
                raise InputError(
                    f"tuning.measure {tuning.measure!r} is not among {sorted(set(results['measure'].to_pylist()))}"
                )
            yield {"method": name, "change": change, "step": step, "value": float(np.nanmean(values))}


def _cells(study: StudyConfig, recipe: RunConfig, chosen: dict[str, Changes]) -> Iterator[Cell]:
    """All cells of a study; of each training the tuned step comes first, then the steps of its curve."""
    for (setting, change), (name, method), seed in itertools.product(
        study.settings.items(), study.methods.items(), study.seeds
    ):
        steps = [chosen[name]["step"]]
        if method.train and seed == study.seeds[0]:
            steps += [step for step in study.curve if step != steps[0]]
        for step in steps:
            training = {
                "align": {"seed": seed, "steps": max(steps), "snapshots": sorted(steps)},
                "evaluate": {"step": step},
            }
            config = changed(recipe, method.change, chosen[name]["change"], training if method.train else {}, change)
            yield Cell(name, setting, seed, step, config)


def _run_and_measure(cell: Cell, run_dir: Path) -> pa.Table:
    """Runs the stages of a cell that are missing, and returns its measures: rows of tables.STUDY."""
    for stage in required_stages(cell.config, "evaluate"):
        run_stage(stage, cell.config, run_dir)
    return cell_results(run_dir, cell.method, cell.setting, cell.seed, cell.step)


def cell_results(run_dir: Path, method: str, setting: str, seed: int, step: int) -> pa.Table:
    """The measures of a finished run as rows of tables.STUDY: the mean over the samples of each prompt."""
    measured = read_table(run_dir / "evaluate" / "measures.parquet", MEASURES_TABLE)
    means = measured.group_by(["measure", "model", "prompt_id"]).aggregate([("value", "mean")]).to_pylist()
    cell = {"method": method, "setting": setting, "seed": seed, "step": step}
    return rows_to_table(
        [
            cell | {key: row[key] for key in ("model", "prompt_id", "measure")} | {"value": row["value_mean"]}
            for row in sorted(means, key=lambda row: (row["measure"], row["model"], row["prompt_id"]))
        ],
        STUDY,
    )


def _training_log(cell: Cell, run_dir: Path) -> pa.Table:
    """Everything that the training of a cell logged, rows of tables.TRAINING."""
    identity = {"method": cell.method, "setting": cell.setting, "seed": cell.seed}
    return rows_to_table(
        [
            identity | {"step": line["step"], "measure": name, "value": value}
            for line in read_log(run_dir, "align")
            for name, value in line.items()
            if name != "step"
        ],
        TRAINING,
    )


def combinations(tune: dict[str, list[Any]]) -> Iterator[Changes]:
    """Every combination of the values to try, each as nested settings of a recipe."""
    for values in itertools.product(*tune.values()):
        change: Changes = {}
        for dotted, value in zip(tune, values, strict=True):
            *parents, last = dotted.split(".")
            section = change
            for parent in parents:
                section = section.setdefault(parent, {}) if isinstance(section, dict) else section
            if not isinstance(section, dict) or last in section:
                raise InputError(f"tune has {shorten(dotted)!r} and a section that holds it; name single settings")
            section[last] = value
        yield change


def _one_line(change: Changes, prefix: str = "") -> str:
    """Nested settings on one line, such as align.steps=400 align.learning_rate=0.001."""
    parts = [
        _one_line(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key}={value}"
        for key, value in change.items()
    ]
    return " ".join(parts)
