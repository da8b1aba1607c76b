"""Studies: what is read, which cells they have, and how methods are tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from halovid.config.run import RunConfig
from halovid.store.errors import InputError
from halovid.store.tables import STUDY, TRAINING, TUNING, read_table, rows_to_table
from halovid.study import runner as study
from halovid.study.runner import Cell, load_study, run_study

STUDY_YAML: dict[str, Any] = {
    "recipe": "recipe.yaml",
    "change": {"generate": {"candidates": 2}},
    "seeds": [0, 1],
    "settings": {"all pairs": {}, "few pairs": {"pair": {"limit": 3}}},
    "methods": {
        "clip": {
            "change": {"align": {"objective": {"lambda_patch": 0}}},
            "tune": {"align.learning_rate": [1e-4, 1e-3], "align.objective.beta_clip": [10, 20]},
        },
        "best of 4": {"change": {"evaluate": {"best_of": 4}}, "train": False},
    },
    "tuning": {"change": {"evaluate": {"prompts": {"seed": 77}}}, "steps": [5, 10]},
    "curve": [20],
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The study and its recipe on disk."""
    (tmp_path / "recipe.yaml").write_text("seed: 7\n")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY_YAML))
    return path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Cell, bool]]:
    """Replaces the stages: every cell is noted, and measured by how near its rate is to 1e-3 and its step to 5."""
    cells: list[tuple[Cell, bool]] = []

    def measured(cell: Cell, run_dir: Path) -> Any:
        cells.append((cell, cell.config.evaluate.best_of == 1))
        value = (
            -abs(cell.config.align.learning_rate - 1e-3) - abs(cell.step - 5) - cell.config.align.objective.beta_clip
        )
        row = {"method": cell.method, "setting": cell.setting, "seed": cell.seed, "step": cell.step, "prompt_id": "p"}
        row |= {"measure": "judge_rating"}
        base, aligned = {"model": "base", "value": -100.0}, {"model": "aligned", "value": value}
        return rows_to_table([row | base, row | aligned], STUDY)

    monkeypatch.setattr(study, "_run_and_measure", measured)
    monkeypatch.setattr(study, "_training_log", lambda cell, run_dir: TRAINING.empty_table())
    return cells


def test_every_combination_is_tuned_on_validation_prompts_with_a_seed_of_its_own(
    written: Path, seen: list[tuple[Cell, bool]], tmp_path: Path
) -> None:
    run_study(written, tmp_path / "out")
    tuning = [cell for cell, _ in seen if cell.setting == "tuning"]
    tried = {(cell.config.align.learning_rate, cell.config.align.objective.beta_clip, cell.step) for cell in tuning}
    assert tried == {(rate, beta, step) for rate in (1e-4, 1e-3) for beta in (10, 20) for step in (5, 10)}
    assert len(tuning) == 8, "methods without dials are not tuned"
    for cell in tuning:
        assert cell.config.evaluate.prompts.seed == 77 and cell.config.align.seed == 1000
        assert cell.config.align.steps == 10 and cell.config.align.snapshots == (5, 10)
        assert cell.config.evaluate.step == cell.step
    rows = read_table(tmp_path / "out" / "tuning.parquet", TUNING).to_pylist()
    assert max(row["value"] for row in rows if row["method"] == "clip") == -10, "the base's own rating does not count"
    assert (
        next(row["change"] for row in rows if row["method"] == "clip")
        == "align.learning_rate=0.0001 align.objective.beta_clip=10"
    )


def test_cells_have_the_best_settings_and_every_seed_under_every_setting(
    written: Path, seen: list[tuple[Cell, bool]], tmp_path: Path
) -> None:
    table = run_study(written, tmp_path / "out")
    cells = [(cell, train) for cell, train in seen if cell.setting != "tuning"]
    trained = [cell for cell, train in cells if train]
    assert {(cell.setting, cell.seed, cell.step) for cell in trained} == {
        (setting, seed, step) for setting in ("all pairs", "few pairs") for seed, step in ((0, 5), (0, 20), (1, 5))
    }
    for cell in trained:
        config: RunConfig = cell.config
        assert (config.seed, config.align.seed) == (7, cell.seed)
        assert (config.align.learning_rate, config.align.objective.beta_clip, config.align.objective.lambda_patch) == (
            1e-3,
            10,
            0,
        )
        assert config.generate.candidates == 2 and config.pair.limit == (3 if cell.setting == "few pairs" else None)
        assert config.evaluate.step == cell.step and config.evaluate.prompts.split == "heldout"
        assert config.align.snapshots == ((5, 20) if cell.seed == 0 else (5,))
    untrained = [cell for cell, train in cells if not train]
    assert len(untrained) == 4 and all(cell.config.evaluate.best_of == 4 for cell in untrained)
    assert len(table) == len(cells) + 2, "the base stands once for each setting"
    assert read_table(tmp_path / "out" / "results.parquet", STUDY).equals(table)
    assert (tmp_path / "out" / "results.csv").read_text().count("\n") == len(table) + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sedes": [1]}, "unknown key 'sedes': did you mean 'seeds'"),
        ({"methods": {"a": {"tune": {"x": [1, 2]}}, "b": {"tune": {"x": [1]}}}}, "unequal tuning budgets"),
        ({"seeds": [1000]}, "tuning.seed 1000 is one of the study's seeds"),
        ({"methods": {}}, "methods"),
        ({"change": {"align": {"stpes": 3}}}, "unknown key 'align.stpes': did you mean 'steps'"),
        ({"recipe": "other.yaml"}, "can't read the recipe"),
    ],
)
def test_mistakes_in_a_study(written: Path, change: dict[str, Any], words: str) -> None:
    written.write_text(yaml.safe_dump(STUDY_YAML | change))
    with pytest.raises(InputError) as error:
        load_study(written)
    assert words in str(error.value)


def test_relative_paths_of_a_study_start_from_its_folder(written: Path, tmp_path: Path) -> None:
    raw = STUDY_YAML | {
        "change": {"judge": {"labels": "labels.jsonl"}},
        "methods": {"clip": {"change": {"good": {"source": "good"}}, "tune": {"judge.labels": ["a.jsonl", "b.jsonl"]}}},
    }
    written.write_text(yaml.safe_dump(raw))
    loaded, recipe = load_study(written)
    assert recipe.judge.labels == tmp_path / "labels.jsonl"
    assert loaded.methods["clip"].change == {"good": {"source": str(tmp_path / "good")}}
    assert loaded.methods["clip"].tune == {"judge.labels": [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"change": {"align": {"clip_norm": 2}}}, r"method 'clip': 'align\.clip_norm' is now called"),
        ({"tune": {"align.steps": [1, -1]}}, r"method 'clip': align\.steps: got -1"),
        ({"tune": {"align": [{}], "align.steps": [1]}}, "name single settings"),
        ({"tune": {"align.steps": list(range(1, 102)), "seed": list(range(10))}}, "tuned over"),
        ({"tune": {"align.steps": []}}, "tuned over"),
        ({"chnge": {}}, "did you mean 'change'"),
    ],
)
def test_a_method_that_can_not_be_run_is_told_before_anything_is(
    method: dict[str, Any], message: str, written: Path
) -> None:
    written.write_text(yaml.safe_dump(STUDY_YAML | {"methods": {"clip": method}}))
    with pytest.raises(InputError, match=message):
        load_study(written)
