"""Files that others made: rows of tables, and paths that must stay inside their folder."""

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

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif", ".m4v")
_MARGINS = 1e-30, 1e30  # what pairs.parquet holds as numbers above 0

Skip = Callable[[str, str], None]


class SourceProblem(ValueError):
    """An item that can't be used; the message says why. It is listed as skipped, the others go on."""


def resolve_inside(root: Path, text: Any) -> Path:
    """The file that `text` names inside the folder `root`, links resolved.

    Raises:
        SourceProblem: it is no file name, leads out of the folder by itself or by a link, or there is no such file.
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
        raise SourceProblem(f"{describe(text)} can't be followed ({getattr(error, 'strerror', error)})") from error
    if not path.is_relative_to(root.resolve()):
        raise SourceProblem(f"{describe(text)} is a link that leads out of the folder")
    if not is_file:
        raise SourceProblem(f"{describe(text)} does not exist")
    if not os.access(path, os.R_OK):
        raise SourceProblem(f"{describe(text)} must not be read: permission denied")
    return path


def is_inside(root: Path, text: str) -> bool:
    """Whether `resolve_inside` gives a file."""
    try:
        resolve_inside(root, text)
    except SourceProblem:
        return False
    return True


def relative_name(root: Path, path: Path) -> str:
    """The name of a file that `resolve_inside` gave: one per file, however it was written."""
    return path.relative_to(root.resolve()).as_posix()


def find_table(source: Path, suffixes: tuple[str, ...]) -> tuple[Path, Path]:
    """The folder of a data set and its table: `source` itself, or the only file of these kinds in it.

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
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise InputError(f"{source} must hold exactly one {kinds} file, found {names}; name the file itself")
    return source, found[0]


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
    """(name, row) of every row of a .csv, .json, .jsonl or .parquet table; `skip` is told of rows that are none.

    Raises:
        InputError: the table can't be read, or is known to lack a required column.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        yield from _csv_rows(path, required, skip)
    elif suffix == ".parquet":
        table = read_parquet(path)
        _require(path, table.column_names, required)
        try:
            rows = table.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException) as error:  # times that Python has not
            raise InputError(f"{path} holds values that can't be read ({shorten(str(error))})") from error
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
    else:
        yield from _json_rows(path, required, skip)


def _csv_rows(path: Path, required: tuple[str, ...], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a CSV file."""
    header, rows = read_csv(path)
    _require(path, header, required)
    for name, cells in rows:
        if len(cells) == len(header):
            yield name, dict(zip(header, cells, strict=True))
        else:
            skip(name, f"it does not have the {len(header)} cells of the header")


def _json_rows(path: Path, required: tuple[str, ...], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a JSON list of objects, or of one object a line."""
    values = [value for _, value in read_json_lines(path)] if path.suffix.lower() == ".jsonl" else read_json(path)
    if not isinstance(values, list):
        raise InputError(f"{path} must hold a list of objects, found {type(values).__name__}")
    for number, row in enumerate(values, 1):
        missing = [name for name in required if name not in row] if isinstance(row, dict) else None
        if missing == []:
            yield f"row {number}", row
        else:
            skip(f"row {number}", f"it lacks {', '.join(missing)}" if missing else "it is no object")


def _require(path: Path, names: Any, required: tuple[str, ...]) -> None:
    """InputError when a column is missing."""
    missing = [name for name in required if name not in names]
    if missing:
        raise InputError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {shorten(', '.join(map(str, names))) or 'none'}"
        )


def read_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The number in a cell.

    Raises:
        SourceProblem: it is none, or not within low..high.
    """
    try:
        number = float("no" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise SourceProblem(f"{name} is {describe(value)}, which is no number") from None
    if not (math.isfinite(number) and low <= number <= high):
        raise SourceProblem(f"{name} is {number:g}; it must lie in {low:g}..{high:g}")
    return number


def read_margin(row: dict[str, Any], default: float = 1.0) -> float:
    """The `margin` column that our exports have beside a format's own; `default` where there is none."""
    given = row.get("margin")
    return default if given in (None, "") else read_number(given, "margin", *_MARGINS)
