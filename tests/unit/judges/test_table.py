"""Labels from a file as a judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from halovid.config.run import JudgeConfig
from halovid.judges import make_judge
from halovid.judges.table import TableJudge
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import Judgement, Refusal, Request
from halovid.store.errors import InputError

GRID = PatchGrid(1, 2, 2)
GEOMETRY = LatentGeometry(4, 8, causal_first_frame=True)
ROW: dict[str, Any] = {"clip_id": "a", "aspect": "visual_quality", "score": 3.0, "patch_scores": [1.0, 2.0, 4.5, 5.0]}


def request(clip_id: str) -> Request:
    return Request(torch.zeros(3, 1, 4, 4), "p", clip_id)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_labels_of_a_clip_are_its_rows(tmp_path: Path, kind: str) -> None:
    rows = [ROW, {**ROW, "aspect": "text_alignment", "score": 5, "patch_scores": None}]
    path = tmp_path / f"labels.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write(path, *rows)
    known, unknown = TableJudge(path, GRID).judge([request("a"), request("b")], GEOMETRY)
    assert isinstance(known, Judgement) and isinstance(unknown, Refusal)
    assert known.clip == {"visual_quality": 3.0, "text_alignment": 5.0}
    assert known.patches.keys() == {"visual_quality"}
    assert known.patches["visual_quality"].tolist() == [[[1.0, 2.0], [4.5, 5.0]]]
    assert "has no label of it" in unknown.reason


def test_patch_scores_may_be_left_out_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.jsonl", {"clip_id": "a", "aspect": "visual_quality", "score": 2})
    (answer,) = TableJudge(path, GRID).judge([request("a")], GEOMETRY)
    assert answer == Judgement({"visual_quality": 2.0}, {})


def test_patches_that_nobody_was_asked_about_are_unknown(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.jsonl", {**ROW, "patch_scores": [1.0, None, 4.5, None]})
    (answer,) = TableJudge(path, GRID).judge([request("a")], GEOMETRY)
    assert isinstance(answer, Judgement)
    assert answer.patches["visual_quality"].isnan().flatten().tolist() == [False, True, False, True]


def test_the_name_changes_with_the_content(tmp_path: Path) -> None:
    first = TableJudge(write(tmp_path / "l.jsonl", ROW), GRID).name
    assert TableJudge(write(tmp_path / "l.jsonl", ROW), GRID).name == first
    assert TableJudge(write(tmp_path / "l.jsonl", {**ROW, "score": 2.0}), GRID).name != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 0.5}, r"label 2 \(clip 'b', .*rating 0\.5; ratings are numbers from 1 to 5"),
        ({"score": None}, "rating None"),
        ({"patch_scores": [1.0, 2.0, 3.0, 7.0]}, r"rating 7\.0"),
        ({"patch_scores": [1.0, 0.0, None, 4.0]}, r"rating 0\.0"),
        ({"patch_scores": [1.0]}, r"1 patch scores; the grid \(1, 2, 2\) has 4"),
        ({"clip_id": "a"}, "a second label of it"),
        ({"clip_id": None}, "clip_id and aspect must be given"),
        ({"aspect": "Visual Quality"}, "there is no such aspect; known are visual_quality"),
        ({"score": "good"}, "line 2: score is 'good'; it must be a number"),
    ],
)
def test_a_bad_label_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "labels.jsonl", ROW, {**ROW, "clip_id": "b", **change})
    with pytest.raises(InputError, match=message):
        TableJudge(path, GRID)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't read .*: No such file"),
        ("", "is empty"),
        ("no json", "line 1 is not JSON"),
        ("null\n", "line 1 is None; it must be a JSON object"),
        ('{"clip_id": "a"}\n', "lacks the columns"),
        ('{"clip_id": "a", "clip_id": "b"}\n', "key 'clip_id' twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "labels.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        TableJudge(path, GRID)


def test_ids_that_look_like_dates_are_ids(tmp_path: Path) -> None:
    judge = TableJudge(write(tmp_path / "labels.jsonl", {**ROW, "clip_id": "2020-01-01"}), GRID)
    assert judge.clip_ids == {"2020-01-01"}


def test_text_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_bytes(b'{"clip_id": "\xe9", "aspect": "visual_quality", "score": 3}\n')
    with pytest.raises(InputError, match="is not UTF-8 text"):
        TableJudge(tmp_path / "labels.jsonl", GRID)


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.parquet").write_text("no table")
    with pytest.raises(InputError, match="not a readable Parquet"):
        TableJudge(tmp_path / "labels.parquet", GRID)


def test_the_file_must_be_named() -> None:
    with pytest.raises(InputError, match=r"name the file with the labels as judge\.labels"):
        make_judge(JudgeConfig(judge="table"), GRID, 0)
