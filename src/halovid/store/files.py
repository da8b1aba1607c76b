"""Files that are either whole or absent, and their fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from halovid.store.errors import InputError, shorten

MOST_FILES = 100_000  # below a folder that a recipe names


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an error.

    The file is flushed to the disk before it is renamed, so a crash leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically, indented and with sorted keys, so that equal values give equal files."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_identity(path: Path | None, setting: str) -> str | None:
    """The hash of the file that a setting names; None where the setting is left out.

    Raises:
        InputError: there is no such file, or it is a folder or device.
    """
    if path is None:
        return None
    if not os.path.isfile(path):
        raise InputError(
            f"{setting} names {shorten(str(path))}, which is no file; a relative path in a recipe starts from the "
            f"recipe's folder, on the command line from the current folder"
        )
    return hash_file(path)


def hash_value(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_folder(folder: Path) -> str:
    """SHA-256 of the names and contents of all files below a folder, hexadecimal.

    Raises:
        InputError: it holds more files than any model or set of clips: somebody named a folder far above.
    """
    files = sorted(islice((path for path in folder.rglob("*") if path.is_file()), MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise InputError(
            f"{shorten(str(folder))} holds more than {MOST_FILES:,} files, which would all be read; name the folder of "
            f"the model or of the clips itself"
        )
    return hash_value({str(path.relative_to(folder)): hash_file(path) for path in files})
