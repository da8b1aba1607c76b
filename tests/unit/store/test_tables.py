"""Tables: what is written comes back, and what is not ours is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from halovid.store import tables
from halovid.store.errors import InputError

SCHEMAS = (
    tables.CLIPS,
    tables.LABELS,
    tables.VOTES,
    tables.REWARDS,
    tables.RELEASED,
    tables.PAIRS,
    tables.PREFERENCES,
    tables.RELIABILITY,
    tables.AGREEMENT,
    tables.MEASURES,
    tables.METRICS,
)
quick = settings(max_examples=40, deadline=None, derandomize=True)
matrices = st_numpy.arrays(
    np.float32, st.tuples(st.integers(1, 7), st.integers(1, 11)), elements=st.floats(-9, 9, width=32)
)


def example_rows(schema: pa.Schema) -> list[dict[str, Any]]:
    values: dict[pa.DataType, list[Any]] = {
        pa.string(): ['a\nb, "c" 😀', ""],
        pa.int64(): [2**63 - 1, -1],
        pa.float32(): [0.5, math.nan],
        pa.list_(pa.string()): [["a", ""], []],
        pa.list_(pa.int64()): [[0, 3], [-1]],
        pa.list_(pa.float32()): [[1.5, -2.5, 0.0], [3.0, 4.0, 5.0]],
    }
    return [{field.name: values[field.type][row] for field in schema} for row in (0, 1)]


def reward_table() -> pa.Table:
    return tables.rows_to_table(example_rows(tables.REWARDS), tables.REWARDS)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.metadata[b"halovid.table"].decode())
def test_every_table_comes_back_as_it_was(schema: pa.Schema, tmp_path: Path) -> None:
    written = tables.rows_to_table(example_rows(schema), schema)
    tables.write_table(tmp_path / "new" / "table.parquet", written)
    read = tables.read_table(tmp_path / "new" / "table.parquet", schema)
    assert read.schema.equals(schema)
    assert repr(read.to_pylist()) == repr(written.to_pylist())  # repr, since NaN differs from itself
    assert read.num_rows == 2


def test_an_empty_table_comes_back_empty(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "t.parquet", tables.rows_to_table([], tables.PAIRS))
    assert tables.read_table(tmp_path / "t.parquet", tables.PAIRS).num_rows == 0


def test_table_names_are_distinct() -> None:
    assert len({schema.metadata[b"halovid.table"] for schema in SCHEMAS}) == len(SCHEMAS)


def test_a_missing_file_names_the_table_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rewards table .*t\.parquet does not exist; run the stage"):
        tables.read_table(tmp_path / "t.parquet", tables.REWARDS)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    tables.write_table(path, reward_table())
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a readable Parquet file"):
            tables.read_table(path, tables.REWARDS)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"halovid.table": "rewards"},
        {"halovid.table": "rewards", "halovid.version": "0"},
        {"halovid.table": "pairs", "halovid.version": "2"},
    ],
)
def test_a_foreign_table_or_version_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    pq.write_table(reward_table().replace_schema_metadata(metadata), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"this halovid reads 'rewards' version '1'"):
        tables.read_table(tmp_path / "t.parquet", tables.REWARDS)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(reward_table().drop_columns(["reward", "prompt_id"]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"lacks the columns \['prompt_id', 'reward'\]"):
        tables.read_table(tmp_path / "t.parquet", tables.REWARDS)


def test_further_columns_are_left_out_and_order_is_the_schemas(tmp_path: Path) -> None:
    table = reward_table().append_column("note", pa.array(["x", "y"]))
    pq.write_table(table.select(table.column_names[::-1]), tmp_path / "t.parquet")
    assert tables.read_table(tmp_path / "t.parquet", tables.REWARDS).column_names == tables.REWARDS.names


def test_a_column_of_another_type_is_refused(tmp_path: Path) -> None:
    table = reward_table()
    text = table.set_column(table.column_names.index("reward"), "reward", pa.array(["high", "low"]))
    pq.write_table(text.replace_schema_metadata(tables.REWARDS.metadata), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet"):
        tables.read_table(tmp_path / "t.parquet", tables.REWARDS)


@pytest.mark.parametrize("change", ["lacks", "adds"])
def test_rows_must_have_the_columns_of_the_schema(change: str) -> None:
    row = example_rows(tables.REWARDS)[0]
    if change == "lacks":
        del row["reward"]
    else:
        row["rewrad"] = 1.0
    with pytest.raises((KeyError, ValueError), match="rew"):
        tables.rows_to_table([row], tables.REWARDS)


@quick
@given(matrices)
def test_patch_lists_and_patch_matrix_are_inverse(values: np.ndarray) -> None:
    lists = tables.patch_lists(values)
    assert lists.to_pylist() == values.tolist()
    found = tables.patch_matrix(pa.table({"patches": lists}), "patches")
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.float32


def test_a_patch_matrix_of_chunks_and_slices_keeps_the_order_of_rows() -> None:
    values = np.arange(35, dtype=np.float32).reshape(7, 5)
    chunks = pa.chunked_array([tables.patch_lists(values[:3]), tables.patch_lists(values[3:])])
    table = pa.table({"patches": chunks})
    np.testing.assert_array_equal(tables.patch_matrix(table, "patches"), values)
    np.testing.assert_array_equal(tables.patch_matrix(table.slice(2, 3), "patches"), values[2:5])
    np.testing.assert_array_equal(tables.patch_matrix(table.take([5, 1]), "patches"), values[[5, 1]])


@pytest.mark.parametrize("lists", [[[1.0], [1.0, 2.0]], [[1.0], None], [None, None], []])
def test_ragged_or_missing_patch_lists_are_refused(lists: list[list[float] | None]) -> None:
    table = pa.table({"patches": pa.array(lists, type=pa.list_(pa.float32()))})
    with pytest.raises(InputError, match="'patches' must hold equally long patch lists"):
        tables.patch_matrix(table, "patches")
