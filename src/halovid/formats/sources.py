"""Reading data sets of other projects: rows of tables, and paths that must stay inside the data set's folder."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow as pa

from halovid.store.errors import InputError, shorten
from halovid.store.foreign import describe, read_csv, read_json, read_json_lines, read_parquet
from halovid.store.troubles import raise_shortage

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif", ".m4v")
_MARGIN_RANGE = 1e-30, 1e30  # stays finite and above 0 in the 32 bits of pairs.parquet

Skip = Callable[[str, str], None]  # is called with an item that can't be used, and why


class SourceProblem(ValueError):
    """Why one item can't be used. The reader lists the item as skipped and goes on with the next one."""


def resolve_inside(root: Path, text: Any) -> Path:
    """The file that `text` names inside the folder `root`, links resolved.

    Raises:
        SourceProblem: it is no file name, leads out of the folder (also through a link), or there is no such file.
    """
    if not isinstance(text, str) or not text.strip() or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise SourceProblem(f"{describe(text)} is no file name")
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive or "\\" in text:
        raise SourceProblem(f"{describe(text)} is no path relative to the folder, with / between its parts")
    if ".." in PurePosixPath(text).parts:
        raise SourceProblem(f"{describe(text)} leads out of the folder")
    try:
        path = (root / text).resolve()
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:
        raise_shortage(error)
        raise SourceProblem(f"{describe(text)} can't be followed ({getattr(error, 'strerror', error)})") from error
    if not path.is_relative_to(root.resolve()):
        raise SourceProblem(f"{describe(text)} is a link that leads out of the folder")
    if not is_file:
        raise SourceProblem(f"{describe(text)} does not exist")
    if not os.access(path, os.R_OK):
        raise SourceProblem(f"{describe(text)} must not be read: permission denied")
    return path


def is_inside(root: Path, text: str) -> bool:
    """Whether `text` names a file inside the folder, as `resolve_inside` requires."""
    try:
        resolve_inside(root, text)
    except SourceProblem:
        return False
    return True


def relative_name(root: Path, path: Path) -> str:
    """The path of a resolved file relative to the folder `root`: one name per file, however a table wrote it."""
    return path.relative_to(root.resolve()).as_posix()


def find_table(source: Path, suffixes: tuple[str, ...]) -> tuple[Path, Path]:
    """The folder of a data set and the path of its table: `source`, or the only file with such a suffix in it.

    Raises:
        InputError: there is no such file, or more than one.
    """
    kinds = " or ".join(suffixes)
    if source.is_file():
        if source.suffix.lower() not in suffixes:
            raise InputError(f"{source} is no {kinds} file; name the table or the folder that holds it")
        return source.parent, source
    if not source.is_dir():
        raise InputError(f"{source} does not exist; name the table or the folder that holds it")
    tables = sorted(path for path in source.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables[:5]) or "none"
        raise InputError(f"{source} must hold exactly one {kinds} file, found {names}; name the file itself")
    return source, tables[0]


def list_videos(folder: Path) -> list[str]:
    """The names of the video files of a folder, sorted.

    Raises:
        InputError: it is no folder, or holds no video.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the one that holds the clips")
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not names:
        raise InputError(f"{folder} holds no video file ({', '.join(VIDEO_SUFFIXES)})")
    return names


def read_rows(path: Path, required: tuple[str, ...], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("row N", row) for every row of a .csv, .json, .jsonl or .parquet table; broken rows go to `skip`.

    Raises:
        InputError: the table can't be read, or its header lacks a required column.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        yield from _csv_rows(path, required, skip)
    elif suffix == ".parquet":
        table = read_parquet(path)
        _require_columns(path, table.column_names, required)
        try:
            rows = table.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException) as error:  # such as times beyond the range of datetime
            raise InputError(f"{path} holds values that can't be read ({shorten(str(error))})") from error
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
    else:
        yield from _json_rows(path, required, skip)


def _csv_rows(path: Path, required: tuple[str, ...], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a CSV file, as `read_rows` yields them."""
    header, rows = read_csv(path)
    _require_columns(path, header, required)
    for name, cells in rows:
        if len(cells) == len(header):
            yield name, dict(zip(header, cells, strict=True))
        else:
            skip(name, f"it does not have the {len(header)} cells of the header")


def _json_rows(path: Path, required: tuple[str, ...], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a .json list of objects, or of a .jsonl file with one object per line, as `read_rows` yields them."""
    values = [value for _, value in read_json_lines(path)] if path.suffix.lower() == ".jsonl" else read_json(path)
    if not isinstance(values, list):
        raise InputError(f"{path} must hold a list of objects, found {type(values).__name__}")
    for number, row in enumerate(values, 1):
        missing = [name for name in required if name not in row] if isinstance(row, dict) else None
        if missing == []:
            yield f"row {number}", row
        else:
            skip(f"row {number}", f"it lacks {', '.join(missing)}" if missing else "it is no object")


def _require_columns(path: Path, names: Any, required: tuple[str, ...]) -> None:
    """Raises InputError when a required column is missing."""
    missing = [name for name in required if name not in names]
    if missing:
        raise InputError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {shorten(', '.join(map(str, names))) or 'none'}"
        )


def read_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The number in the cell of column `name`.

    Raises:
        SourceProblem: the cell holds no number (true and false are none), or one outside low..high.
    """
    try:
        if isinstance(value, bool):
            raise TypeError("true and false are no numbers")
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise SourceProblem(f"{name} is {describe(value)}, which is no number") from None
    if not (math.isfinite(number) and low <= number <= high):
        raise SourceProblem(f"{name} is {number:g}; it must lie in {low:g}..{high:g}")
    return number


def read_margin(row: dict[str, Any], default: float = 1.0) -> float:
    """The row's `margin`, a column that only our exports add to a format; `default` where it is absent or empty."""
    margin = row.get("margin")
    return default if margin in (None, "") else read_number(margin, "margin", *_MARGIN_RANGE)
