"""The findings of a study: numbers equal those of numpy, and values are paired by prompt."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from halovid.store.tables import STUDY, TRAINING, rows_to_table
from halovid.study.findings import Results, compare_methods, markdown, write_figures, write_training_figure

PROMPTS = [f"p{number}" for number in range(12)]
DEFECTS, MOTION = "defective_sprite_patches", "motion"
STEPS = {"HALO": 400, "DPO": 200}


def study_rows() -> list[dict[str, object]]:
    """Two methods, two settings, three seeds, a curve of the first; the base is measured with every cell."""
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(20, 40, len(PROMPTS))
    rows = []
    for setting, extra in (("all pairs", 0.0), ("few pairs", 4.0)):
        for method, gain in (("HALO", 20.0), ("DPO", 8.0)):
            cells = [(seed, STEPS[method]) for seed in range(3)] + [(0, 800)]
            for seed, step in cells:
                for prompt, hard in zip(PROMPTS, difficulty, strict=True):
                    key = {"method": method, "setting": setting, "seed": seed, "step": step, "prompt_id": prompt}
                    aligned = hard - gain + extra + seed + (1 if step == 800 else 0)
                    for model, value in (("base", hard), ("aligned", aligned)):
                        rows.append(key | {"model": model, "measure": DEFECTS, "value": value})
                        rows.append(key | {"model": model, "measure": MOTION, "value": 1.0})
    return rows


@pytest.fixture(scope="module")
def results() -> Results:
    rows = study_rows()
    np.random.default_rng(1).shuffle(rows)
    order = sorted(rows, key=lambda row: str(row["setting"]))
    return Results(rows_to_table(order, STUDY), STEPS)


def row_of(table: pa.Table, **key: str) -> dict[str, float]:
    matches = [row for row in table.to_pylist() if all(row[name] == value for name, value in key.items())]
    assert len(matches) == 1
    return matches[0]


def test_each_method_is_held_against_the_base_and_the_rival(results: Results) -> None:
    table = compare_methods(results, "HALO", num_resamples=500)
    assert len(table) == 2 * 2 * 2 + 2 * 2, "HALO is not held against itself"
    row = row_of(table, setting="all pairs", method="HALO", against="base", measure=DEFECTS)
    assert row["difference"] == pytest.approx(-19)  # seeds 0, 1, 2 add 1 on average; the curve's step is not in it
    assert (row["low"], row["high"]) == pytest.approx((-19, -19)), "every prompt gains alike: prompts are paired"
    assert (row["lowest_seed"], row["highest_seed"]) == pytest.approx((row["other"] - 20, row["other"] - 18))
    assert row["reduction"] == pytest.approx(1 - row["value"] / row["other"])
    assert (row["seeds"], row["step"], row["prompts"]) == (3, 400, 12)
    rival = row_of(table, setting="few pairs", method="DPO", against="HALO", measure=DEFECTS)
    assert rival["difference"] == pytest.approx(12)
    motion = row_of(table, setting="few pairs", method="DPO", against="base", measure=MOTION)
    assert math.isnan(motion["reduction"]) and motion["difference"] == 0


def test_a_prompt_that_one_side_lacks_is_left_out_on_both() -> None:
    rows = [row for row in study_rows() if not (row["prompt_id"] == "p3" and row["seed"] == 1)]
    table = compare_methods(Results(rows_to_table(rows, STUDY), STEPS), None, num_resamples=200)
    row = row_of(table, setting="all pairs", method="DPO", against="base", measure=DEFECTS)
    assert row["prompts"] == 11 and row["difference"] == pytest.approx(-7)


def test_curves_are_the_first_seed_in_the_order_of_steps(results: Results) -> None:
    curve = results.curve("all pairs", "HALO", DEFECTS)
    assert [step for step, _ in curve] == [400, 800]
    assert curve[1][1] - curve[0][1] == pytest.approx(1)


def test_the_table_for_people_names_every_method_once_per_opponent(results: Results) -> None:
    text = markdown(compare_methods(results, "HALO", num_resamples=200))
    assert text.count("| HALO |") == 2 and text.count("| DPO |") == 4
    assert "| *base* |" in text and "| *HALO* |" in text


def test_figures_are_drawn_and_equal_results_give_equal_bytes(results: Results, tmp_path: Path) -> None:
    table = compare_methods(results, None, num_resamples=200)
    for folder in ("a", "b"):
        write_figures(results, table, tmp_path / folder)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"methods.svg", "settings.svg", "steps.svg"}
    for name in names:
        drawn = (tmp_path / "a" / name).read_bytes()
        assert drawn == (tmp_path / "b" / name).read_bytes()
        assert b"HALO" in drawn and b"defective sprite patches" in drawn


def test_the_errors_of_a_training_are_drawn_for_every_method(tmp_path: Path) -> None:
    names = ("errors/chosen", "errors/rejected", "errors/winning_patches", "train/grad_norm")
    rows = [
        {"method": method, "setting": "default", "seed": 0, "step": step, "measure": name, "value": float(step)}
        for method in ("DPO", "HALO")
        for step in range(1, 26)
        for name in names
    ]
    write_training_figure(rows_to_table(rows, TRAINING), tmp_path)
    drawn = (tmp_path / "training.svg").read_text()
    assert "DPO" in drawn and "HALO" in drawn and "error of chosen clips" in drawn
    write_training_figure(TRAINING.empty_table(), tmp_path / "none")
    assert not (tmp_path / "none").exists()
