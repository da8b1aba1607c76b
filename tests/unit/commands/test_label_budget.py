"""Which patches a judge is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.commands.label_budget import draw_patches
from halovid.config.recipes import make_config
from halovid.config.run import RunConfig
from halovid.judges.rounds import planned_rounds, read_rounds, write_rounds
from halovid.store.errors import InputError
from halovid.store.tables import QUESTIONS, rows_to_table, write_table

ROWS = [{"clip_id": name} for name in ("a", "b", "c")]


def config(**judge: object) -> RunConfig:
    return make_config({"grid": {"t": 2, "h": 3, "w": 5}, "judge": judge})


def test_a_larger_share_holds_the_smaller_ones() -> None:
    assert planned_rounds(config(), ROWS) is None
    few, many = (planned_rounds(config(share=share), ROWS) for share in (0.2, 0.5))
    assert few is not None and many is not None
    for name in few:
        assert len(few[name][0]) == 6 and len(many[name][0]) == 15
        assert set(few[name][0]) < set(many[name][0]) <= set(range(30))
    assert few["a"] != few["b"]


def test_rounds_come_back_from_their_table(tmp_path: Path) -> None:
    rounds = {"a": [[0, 3], [7]], "b": [[29]]}
    write_rounds(tmp_path / "questions.parquet", rounds)
    assert read_rounds(tmp_path / "questions.parquet") == rounds
    assert planned_rounds(config(questions=str(tmp_path / "questions.parquet")), ROWS) == rounds | {"c": []}


def test_patches_of_another_grid_are_refused(tmp_path: Path) -> None:
    write_rounds(tmp_path / "questions.parquet", {"a": [[30]]})
    with pytest.raises(InputError, match=r"questions.parquet.*\(2, 3, 5\)"):
        planned_rounds(config(questions=str(tmp_path / "questions.parquet")), ROWS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", 0, [0, 3, 0])], "more than once about patch 0 of clip 'a'"),
        ([("b", 0, [7]), ("a", 0, [0, 3]), ("a", 1, [3, 4])], "more than once about patch 3 of clip 'a'"),
        ([("a", 0, [0]), ("a", 1, None)], "row 2: .* must be given"),
        ([("a", 0, [0, None])], "row 1: .* must be given"),
        ([("a", None, [0])], "row 1: .* must be given"),
        ([(None, 0, [0])], "row 1: .* must be given"),
        ([("a", 0, [0]), ("y", 0, [0]), ("x", 0, [0])], "clips that the run has not, 'x' among 2.*halovid select"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(rows: list[tuple[Any, ...]], message: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.parquet"
    named = [dict(zip(QUESTIONS.names, row, strict=True)) for row in rows]
    write_table(path, rows_to_table(named, QUESTIONS))
    with pytest.raises(InputError, match=f"questions.parquet.*{message}"):
        planned_rounds(config(questions=str(path)), ROWS)


def test_share_and_questions_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave one of them out"):
        config(share=0.5, questions="questions.parquet")
    with pytest.raises(InputError, match="boxes"):
        config(share=0.5, judge="openai", vlm={"strategy": "boxes"})


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(0, 2**31))
def test_so_many_patches_are_drawn_and_none_that_is_known(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    unsure = rng.uniform(size=(4, 15))
    unsure[rng.random(unsure.shape) < 0.3] = np.nan
    chosen = draw_patches(unsure, count, rng)
    assert chosen.sum() == min(count, (~np.isnan(unsure)).sum())
    assert not (chosen & np.isnan(unsure)).any()


def test_uncertain_patches_are_drawn_more_often() -> None:
    unsure = np.where(np.arange(1000) < 100, 0.9, 0.1)
    chosen = draw_patches(unsure, 100, np.random.default_rng(0))
    assert 0.35 < chosen[:100].mean() < 0.65  # half of the first draws, and no patch twice
    assert chosen[100:].mean() < 0.1
