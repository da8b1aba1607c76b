"""Tables that cross a stage boundary: Parquet with a documented, versioned schema.

Readable by pandas, DuckDB and datasets. Each file's metadata names its table and schema version; docs/tables.md
lists the columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from halovid.store.errors import InputError
from halovid.store.files import atomic_path, write_text
from halovid.store.troubles import raise_shortage

_HASH = "_sha256"  # a column of file names, as `video`, has a column of their hashes: `video_sha256`
_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float32()
_PATCHES = pa.list_(_FLOAT)  # t * h * w values, time slowest


def _schema(name: str, /, version: int = 1, **columns: pa.DataType) -> pa.Schema:
    """A table's schema; its version grows when columns are added or mean something else."""
    fields = [pa.field(column, dtype) for column, dtype in columns.items()]
    return pa.schema(fields, metadata={"halovid.table": name, "halovid.version": str(version)})


CLIPS = _schema(
    "clips",
    clip_id=_TEXT,
    prompt_id=_TEXT,
    prompt=_TEXT,
    seed=_INT,
    video=_TEXT,
    video_sha256=_TEXT,
    latents=_TEXT,
    latents_sha256=_TEXT,
    fps=_FLOAT,
)
SOURCES = _schema("sources", clip_id=_TEXT, source=_TEXT)
LABELS = _schema("labels", clip_id=_TEXT, aspect=_TEXT, score=_FLOAT, patch_scores=_PATCHES, judge=_TEXT)
VOTES = _schema("votes", clip_id=_TEXT, aspect=_TEXT, patch=_INT, voter=_TEXT, score=_FLOAT, kind=_TEXT, reason=_TEXT)
QUESTIONS = _schema("questions", clip_id=_TEXT, round=_INT, patches=pa.list_(_INT))
REWARDS = _schema("rewards", clip_id=_TEXT, prompt_id=_TEXT, reward=_FLOAT, patch_rewards=_PATCHES)
ROLLOUTS = _schema("rollouts", round=_INT, prompt_id=_TEXT, clip=_INT, seed=_INT, reward=_FLOAT, patch_rewards=_PATCHES)
REPAIRS = _schema(
    "repairs",
    clip_id=_TEXT,
    original=_TEXT,
    prompt_id=_TEXT,
    round=_INT,
    regions=_INT,
    kept=_INT,
    accepted=pa.bool_(),
    reward=_FLOAT,
    patch_rewards=_PATCHES,
    denoiser_calls=_INT,
)
PAIRS = _schema(
    "pairs",
    version=2,
    prompt_id=_TEXT,
    chosen=_TEXT,
    chosen_folder=_TEXT,
    rejected=_TEXT,
    rejected_folder=_TEXT,
    clip_margin=_FLOAT,
    patch_margins=_PATCHES,
    weight=_FLOAT,
)
PREFERENCES = _schema(
    "preferences",
    prompt_id=_TEXT,
    first=_TEXT,
    second=_TEXT,
    preference=_FLOAT,
    patch_preferences=_PATCHES,
    judge=_TEXT,
)
RELEASED = _schema(
    "released",
    clip_id=_TEXT,
    prompt_id=_TEXT,
    reward=_FLOAT,
    patch_rewards=_PATCHES,
    names=pa.list_(_TEXT),
    scores=pa.list_(_FLOAT),
    frames=pa.list_(_INT),
    fps=_FLOAT,
    policy=_TEXT,
    model=_TEXT,
)
AGREEMENT = _schema(
    "agreement", scope=_TEXT, scoring=_TEXT, aspect=_TEXT, spearman=_FLOAT, kendall=_FLOAT, auroc=_FLOAT, count=_INT
)
RELIABILITY = _schema(
    "reliability",
    scope=_TEXT,
    aspect=_TEXT,
    rater=_TEXT,
    reference=_TEXT,
    measure=_TEXT,
    value=_FLOAT,
    low=_FLOAT,
    high=_FLOAT,
    count=_INT,
)
MEASURES = _schema("measures", model=_TEXT, prompt_id=_TEXT, seed=_INT, measure=_TEXT, value=_FLOAT)
METRICS = _schema(
    "metrics",
    group=_TEXT,
    measure=_TEXT,
    unit=_TEXT,
    better=_TEXT,
    base=_FLOAT,
    aligned=_FLOAT,
    difference=_FLOAT,
    low=_FLOAT,
    high=_FLOAT,
    prompts=_INT,
    base_clips=_INT,
    aligned_clips=_INT,
)
TUNING = _schema("tuning", method=_TEXT, change=_TEXT, step=_INT, value=_FLOAT)
STUDY = _schema(
    "study",
    method=_TEXT,
    setting=_TEXT,
    seed=_INT,
    step=_INT,
    model=_TEXT,
    prompt_id=_TEXT,
    measure=_TEXT,
    value=_FLOAT,
)
TRAINING = _schema("training", method=_TEXT, setting=_TEXT, seed=_INT, step=_INT, measure=_TEXT, value=_FLOAT)
COMPARISON = _schema(
    "comparison",
    setting=_TEXT,
    method=_TEXT,
    against=_TEXT,
    measure=_TEXT,
    group=_TEXT,
    unit=_TEXT,
    better=_TEXT,
    seeds=_INT,
    step=_INT,
    prompts=_INT,
    value=_FLOAT,
    lowest_seed=_FLOAT,
    highest_seed=_FLOAT,
    other=_FLOAT,
    difference=_FLOAT,
    low=_FLOAT,
    high=_FLOAT,
    reduction=_FLOAT,
    reduction_low=_FLOAT,
    reduction_high=_FLOAT,
)


def rows_to_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of `rows` in the given schema; every row must have every column."""
    columns = set(schema.names)
    for row in rows:
        if row.keys() != columns:
            raise ValueError(f"a row's columns differ from those of the table in {sorted(row.keys() ^ columns)}")
    return pa.Table.from_pylist(list(rows), schema=schema)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a table atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def write_rows(path: Path, table: pa.Table) -> None:
    """Writes a table as Parquet or as JSON Lines, as the file's name ends, atomically.

    Raises:
        InputError: the name ends otherwise.
    """
    if path.suffix == ".parquet":
        write_table(path, table)
    elif path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()))
    else:
        raise InputError(f"the file {path} ends in {path.suffix!r}; end it in .parquet or .jsonl")


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """The table at `path`.

    Raises:
        InputError: the file is missing, truncated, another table or of another schema version.
    """
    name, version = table_version(schema)
    if not path.exists():
        raise InputError(f"the {name} table {path} does not exist; run the stage that writes it first")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise_shortage(error)
        raise InputError(
            f"{path} is not a readable Parquet file ({error}); run the stage that writes it again"
        ) from error
    written = table_version(table.schema)
    if written != (name, version):
        raise InputError(
            f"{path} holds table {written[0]!r} version {written[1]!r}; this halovid reads {name!r} version "
            f"{version!r}. Run the stage that writes it again, or use the halovid that wrote it"
        )
    missing = set(schema.names) - set(table.column_names)
    if missing:
        raise InputError(f"{path} lacks the columns {sorted(missing)} of table {name!r}")
    try:
        return table.select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise InputError(f"{path} holds columns of another type than table {name!r} ({error})") from error


def table_version(schema: pa.Schema) -> tuple[str, str]:
    """The name and version of the table that a schema describes; "?" where it does not tell."""
    metadata = schema.metadata or {}
    return (
        metadata.get(b"halovid.table", b"?").decode(errors="replace"),
        metadata.get(b"halovid.version", b"?").decode(errors="replace"),
    )


def named_files(table: pa.Table) -> Iterator[tuple[str, str]]:
    """The files that a table names, relative to its folder, each with the SHA-256 that it must have.

    These are the files in a column that has a column of hashes, as `video` and `video_sha256`; files without a hash are
    left out.
    """
    for column in table.column_names:
        if f"{column}{_HASH}" in table.column_names:
            pairs = zip(table[column].to_pylist(), table[f"{column}{_HASH}"].to_pylist(), strict=True)
            yield from ((name, digest) for name, digest in pairs if name is not None and digest is not None)


def read_named_files(path: Path) -> list[tuple[str, str]]:
    """The files that the table at `path` names, see `named_files`.

    Raises:
        InputError: the table can't be read.
    """
    try:
        columns = pq.read_schema(path).names
        hashed = [name for name in columns if f"{name}{_HASH}" in columns]
        if not hashed:
            return []
        return list(named_files(pq.read_table(path, columns=[*hashed, *(f"{name}{_HASH}" for name in hashed)])))
    except (pa.ArrowException, OSError) as error:
        raise_shortage(error)
        raise InputError(f"{path} is not a readable Parquet file ({error})") from error


def patch_matrix(table: pa.Table, column: str) -> np.ndarray:
    """A column of equally long patch lists as one array [rows, patches].

    Raises:
        InputError: the lists differ in length or one is missing.
    """
    values = table.column(column).combine_chunks()
    lengths = values.value_lengths().unique().to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        raise InputError(f"column {column!r} must hold equally long patch lists, found lengths {lengths[:5]}")
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(table), lengths[0])


def patch_lists(values: np.ndarray) -> pa.ListArray:
    """The inverse of `patch_matrix`: rows of [rows, patches] as lists."""
    rows, patches = values.shape
    offsets = np.arange(0, rows * patches + 1, patches, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.float32).ravel()))
