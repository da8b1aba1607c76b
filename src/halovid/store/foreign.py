"""Readers of files that halovid did not write: JSON, JSON Lines, CSV and Parquet, verified and bounded in size.

Prompts, labels, preferences, questions and data sets are all read by these; a file that can't be used is an InputError
of one sentence. JSON is parsed by Python's own module: pyarrow's crashes the process on a line that is `null`, and
guesses types, so that an id becomes a date.
"""

from __future__ import annotations

import csv
import io
import json
import reprlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from halovid.store.errors import MOST_SHOWN, InputError, shorten
from halovid.store.troubles import raise_shortage

Row = dict[str, Any]
MAX_TEXT = 512 * 2**20  # bytes: text is held in memory several times over
MAX_TABLE = 4 * 2**30  # bytes of a Parquet file's values in memory
MAX_CELL = 1_000_000  # characters: a larger cell of a CSV file is an unclosed quote, not a prompt
_BATCH_ROWS = 4096  # rows of Parquet that are decoded at once, before their size is checked
_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = 3, MOST_SHOWN, MOST_SHOWN, MOST_SHOWN


def describe(value: Any) -> str:
    """Any value for use in a message: on one line, at most 100 characters, however deep or long the value is."""
    return shorten(_repr.repr(value))


def read_text(path: Path, label: str = "", max_bytes: int = MAX_TEXT) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Args:
        label: what the file is, with a space, for messages that put it before the path: "the recipe ".
        max_bytes: the largest size that is read.

    Raises:
        InputError: it can't be read, is no ordinary file, is too large or no UTF-8 text.
    """
    size = _file_size(path, label)
    if size > max_bytes:
        raise InputError(f"{label}{path} has {size:,} bytes; at most {max_bytes:,} are read as text")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise_shortage(error)
        raise InputError(f"can't read {label}{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{label}{path} is not UTF-8 text (byte {error.start})") from None


def _file_size(path: Path, label: str = "") -> int:
    """The bytes of an ordinary file; InputError for folders and devices, whose content may never end."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise InputError(f"can't read {label}{path}: {getattr(error, 'strerror', error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"can't read {label}{path}: it is a folder or device; name a file")
    return status.st_size


def parse_json(text: str, subject: str) -> Any:
    """The value of a JSON text in which no object has a key twice.

    Args:
        subject: what the text is, with which messages begin: "labels.jsonl, line 3".

    Raises:
        InputError: it is no JSON, has a key twice, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_object_of_unique_keys)
    except json.JSONDecodeError as error:
        raise InputError(f"{subject} is not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise InputError(f"{subject} is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{subject} can't be read: {shorten(str(error))}") from None


def _object_of_unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    """The dict of the pairs; ValueError if a key occurs twice, since one of its values would be lost."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in value if keys.count(key) > 1)
        raise ValueError(f"an object has the key {describe(repeated)} twice")
    return value


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises InputError as `read_text` and `parse_json` do."""
    return parse_json(read_text(path), str(path))


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """("line N", value) of every line of a JSON Lines file that is not blank.

    Lines end at newlines only, since JSON texts may hold other separators. Raises InputError as `read_json` does.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"line {number}", parse_json(line, f"{path}, line {number}")


def read_csv(path: Path) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """The header of a CSV file, and ("row N", cells) of every row that is not blank; rows may be short or long.

    Raises:
        InputError: see `read_text`; the header has a column twice; while rows are read, a broken or unclosed quote.
    """
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)

    def rows() -> Iterator[list[str]]:
        try:
            yield from (row for row in reader if row)
        except csv.Error as error:
            raise InputError(f"{path} is broken CSV near line {reader.line_num}: {error}") from None

    content = rows()
    header = next(content, [])
    if len(set(header)) < len(header):
        raise InputError(f"{path} has two columns of one name; its header is {shorten(', '.join(header))}")
    return header, ((f"row {number}", row) for number, row in enumerate(content, start=1))


def read_parquet(path: Path) -> pa.Table:
    """The table of a Parquet file, its values verified.

    Raises:
        InputError: it can't be read, is damaged, or holds more than `MAX_TABLE` bytes of values.
    """
    _file_size(path)
    batches, size = [], 0
    try:
        with pq.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            stated_size = sum(file.metadata.row_group(number).total_byte_size for number in groups)
            for batch in file.iter_batches(_BATCH_ROWS) if stated_size <= MAX_TABLE else ():
                size += batch.nbytes
                if size > MAX_TABLE:
                    break
                batches.append(batch)
            schema = file.schema_arrow
        if max(stated_size, size) > MAX_TABLE:
            raise InputError(f"{path} holds more than {MAX_TABLE >> 30} GiB of values; cut it into smaller tables")
        table = pa.Table.from_batches(batches, schema)
        table.validate(full=True)  # of offsets and texts, which can be damaged and still readable
    except InputError:
        raise
    except (OSError, ValueError, OverflowError, MemoryError, pa.ArrowException) as error:
        raise_shortage(error, of_handles_alone=True)
        raise InputError(f"{path} is not a readable Parquet file ({shorten(str(error))})") from error
    return table


@dataclass(frozen=True)
class ForeignTable:
    """A table that halovid did not write: `columns` are the names it has; `conform` verifies their values."""

    path: Path
    columns: frozenset[str]
    _content: pa.Table | list[tuple[str, Row]]

    def conform(self, schema: pa.Schema) -> pa.Table:
        """The table with exactly the columns of a schema of `store.tables`; columns that it lacks are null.

        Raises:
            InputError: its metadata name another table or version, or a value is of another type than its column.
        """
        if isinstance(self._content, list):
            arrays = [_array(self.path, self._content, field) for field in schema]
        else:
            _check_table_and_version(self.path, self._content.schema, schema)
            arrays = [_cast(self.path, self._content, field) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)


def read_table_of_others(path: Path) -> ForeignTable:
    """A table of labels, preferences, questions or rewards: Parquet, or else JSON Lines.

    Raises:
        InputError: the file can't be read, or holds no row.
    """
    if path.suffix.lower() == ".parquet":
        table = read_parquet(path)
        if len(set(table.column_names)) < len(table.column_names):
            raise InputError(f"{path} has two columns of one name")
        content: pa.Table | list[tuple[str, Row]] = table
        columns = frozenset(table.column_names)
    else:
        rows = list(read_json_lines(path))
        for name, row in rows:
            if not isinstance(row, dict):
                raise InputError(f"{path}, {name} is {describe(row)}; it must be a JSON object, one on each line")
        content, columns = rows, frozenset(key for _, row in rows for key in row)
    if not len(content):
        raise InputError(f"{path} is empty: it holds no row")
    return ForeignTable(path, columns, content)


def _check_table_and_version(path: Path, written: pa.Schema, expected: pa.Schema) -> None:
    """InputError when a table's metadata name another table or version than expected; they may also be absent."""
    for key in (b"halovid.table", b"halovid.version"):
        written_value, expected_value = (written.metadata or {}).get(key), expected.metadata[key].decode()
        if written_value is not None and written_value != expected_value.encode():
            name = key.decode().removeprefix("halovid.")
            raise InputError(
                f"{path} says that it is of {name} {describe(written_value)}; here {name} {expected_value!r} is read"
            )


def _array(path: Path, rows: list[tuple[str, Row]], field: pa.Field) -> pa.Array:
    """A column of JSON rows; InputError for the first value that is of another type."""
    values = [row.get(field.name) for _, row in rows]
    for (name, _), value in zip(rows, values, strict=True):
        if not _is_value(value, field.type):
            raise InputError(f"{path}, {name}: {field.name} is {describe(value)}; it must be {_words(field.type)}")
    try:
        return pa.array(values, field.type)
    except (ValueError, OverflowError, pa.ArrowException) as error:  # too large for its type, or half a surrogate pair
        raise InputError(f"{path}: {field.name} holds what no column can ({shorten(str(error))})") from error


def _cast(path: Path, table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    """A column of a Parquet table, cast to the field's type; InputError if it is of a different kind."""
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    column = table.column(field.name)
    if not _is_type(column.type, field.type):
        raise InputError(f"{path}: {field.name} is of type {column.type}; it must hold {_words(field.type)}")
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise InputError(f"{path}: {field.name} holds what no column can ({shorten(str(error))})") from error


def _words(dtype: pa.DataType) -> str:
    """What a column of a type holds, in words."""
    if pa.types.is_list(dtype):
        return f"a list, of which each entry is {_words(dtype.value_type)}"
    return "a text" if pa.types.is_string(dtype) else "a whole number" if pa.types.is_integer(dtype) else "a number"


def _is_value(value: Any, dtype: pa.DataType) -> bool:
    """Whether a value of JSON is of a column's type; null always is, true and false never are."""
    if value is None:
        return True
    if pa.types.is_list(dtype):
        return isinstance(value, list) and all(_is_value(item, dtype.value_type) for item in value)
    if pa.types.is_string(dtype):
        return isinstance(value, str)
    numbers = int if pa.types.is_integer(dtype) else int | float
    return isinstance(value, numbers) and not isinstance(value, bool)


def _is_type(dtype: pa.DataType, expected: pa.DataType) -> bool:
    """Whether values of a type are of the expected kind (text, whole number, number, list), of whatever width."""
    if pa.types.is_dictionary(dtype):
        return _is_type(dtype.value_type, expected)
    if pa.types.is_null(dtype):
        return True
    if pa.types.is_list(expected):
        is_list = pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype)
        return is_list and _is_type(dtype.value_type, expected.value_type)
    if pa.types.is_string(expected):
        return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype))
    return bool(pa.types.is_integer(dtype) or (pa.types.is_floating(expected) and pa.types.is_floating(dtype)))
