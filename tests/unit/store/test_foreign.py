"""Files of others: verified, bounded, refused in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from halovid.store import files, foreign
from halovid.store.errors import InputError
from halovid.store.files import file_identity, hash_folder
from halovid.store.foreign import describe, parse_json, read_csv, read_table_of_others, read_text
from halovid.store.tables import LABELS

ROW: dict[str, Any] = {"clip_id": "a", "aspect": "visual_quality", "score": 3, "patch_scores": [1, None], "judge": "j"}


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_table_of_others(path).conform(LABELS).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("column", "value"),
    [("score", True), ("score", "3"), ("score", 10**400), ("score", [3]), ("clip_id", 3), ("clip_id", "\ud800"),
     ("patch_scores", [True]), ("patch_scores", 3), ("patch_scores", [[1]]), ("patch_scores", ["x"])],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_whatever_the_file(column: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(ROW | {column: value}))
    with pytest.raises(InputError, match=column) as caught:
        read(tmp_path / "t.jsonl")
    assert len(str(caught.value)) < 400
    if (isinstance(value, int) and value > 2**63) or value == "\ud800":
        return  # Arrow has no such values
    pq.write_table(pa.Table.from_pylist([ROW | {column: value}]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=column):
        read(tmp_path / "t.parquet")


def test_types_of_other_widths_are_the_same_in_substance(tmp_path: Path) -> None:
    columns = {
        "clip_id": pa.array(["a"]).dictionary_encode(),
        "aspect": pa.array(["visual_quality"], pa.large_string()),
        "score": pa.array([3], pa.int8()),
        "patch_scores": pa.array([[1.0, None]], pa.large_list(pa.float64())),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == [ROW | {"judge": None}]


@pytest.mark.parametrize(("kind", "version"), [("votes", "1"), ("labels", "2")])
def test_another_table_or_version_is_refused(kind: str, version: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW], LABELS)
    table = table.replace_schema_metadata({"halovid.table": kind, "halovid.version": version})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=f"says that it is of .*{version if kind == 'labels' else kind}"):
        read(tmp_path / "t.parquet")


def test_sizes_are_bounded_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "t.jsonl").open("wb") as file:
        file.truncate(foreign.MAX_TEXT + 1)
    with pytest.raises(InputError, match="are read as text"):
        read_text(tmp_path / "t.jsonl")
    pq.write_table(pa.Table.from_pylist([ROW] * 100), tmp_path / "t.parquet")
    monkeypatch.setattr(foreign, "MAX_TABLE", 1000)
    with pytest.raises(InputError, match="holds more than"):
        read(tmp_path / "t.parquet")


def test_what_never_ends_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="folder or device"):
            read_text(path)
        with pytest.raises(InputError, match=r"^judge\.questions names .* which is no file"):
            file_identity(path, "judge.questions")
    with pytest.raises(InputError, match=r"judge\.questions names"):
        file_identity(tmp_path / "missing", "judge.questions")
    assert file_identity(None, "judge.questions") is None


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 10**6, '{"a": 1, "a": 2}', "{", ""])
def test_json_that_python_can_not_hold_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^it "):
        parse_json(text, "it")


def test_a_broken_table_of_texts_is_refused(tmp_path: Path) -> None:
    for content, message in (('a,b\n"1,2\n', "broken CSV"), ("a,a\n1,2\n", "two columns of one name")):
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(InputError, match=message):
            list(read_csv(tmp_path / "t.csv")[1])


def test_descriptions_are_short() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    for value in (deep, "x" * 10**6, list(range(10**5)), 10**4000):
        assert len(describe(value)) <= 100


def test_a_folder_with_too_many_files_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / f"{number}").write_text("x")
    hash_folder(tmp_path)
    monkeypatch.setattr(files, "MOST_FILES", 3)
    with pytest.raises(InputError, match="more than 3 files"):
        hash_folder(tmp_path)
