"""Files that are either whole or absent, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from halovid.store.errors import DamageError, InputError, shorten
from halovid.store.runtime import progress

MOST_FILES = 100_000  # that a folder named by a recipe may hold
TEMPORARY = ".halovid-tmp-"  # beginning of the names of files that are still being written
_CHUNK = 2**24  # bytes that are read at once
_LONG = 2**30  # bytes from which on a progress bar is shown while they are hashed
_SETTLED = 10**8  # nanoseconds since the last change after which a further change gets another time
Stamp = tuple[int, int, int]  # size in bytes, time of the last change of content, and of content or metadata, both ns


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an error.

    The file is flushed to the disk before it is renamed, so a crash leaves the old file or the new one. Its rights are
    those that the user's umask gives to new files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
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


_remembered: dict[str, tuple[Stamp, str]] = {}  # absolute path -> the file's stamp when it was hashed, and its hash


@contextmanager
def remembered_hashes(memory: Path) -> Iterator[None]:
    """A context in which `hash_file` does not read files again that earlier processes have hashed.

    Args:
        memory: the file that keeps the hashes; if it is missing or damaged, files are read once more.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(memory.read_text(encoding="utf-8"))
        if stored["checksum"] == hash_value(stored["files"]):
            for path, (stamp, digest) in stored["files"].items():
                _remembered.setdefault(path, ((stamp[0], stamp[1], stamp[2]), digest))
    before = dict(_remembered)
    try:
        yield
    finally:
        if _remembered != before:
            files = {path: entry for path, entry in _remembered.items() if Path(path).exists()}
            with suppress(OSError):
                write_json(memory, {"files": files, "checksum": hash_value(files)})


def hash_file(path: Path, advance: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of a file's bytes, hexadecimal. A file with the size and times of an earlier call is not read again.

    Args:
        advance: called after each chunk with the number of bytes that were read.
    """
    key = str(path.absolute())
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        remembered_stamp, remembered_hash = _remembered.get(key, (None, ""))
        if remembered_stamp == stamp:
            advance(status.st_size)
            return remembered_hash
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    if time.time_ns() - max(stamp[1:]) > _SETTLED:
        _remembered[key] = (stamp, digest.hexdigest())
    return digest.hexdigest()


def is_intact(path: Path, digest: str) -> bool:
    """Whether a file exists and has this SHA-256; it is hashed by `hash_file`, so perhaps not read again."""
    return path.is_file() and hash_file(path) == digest


def check_file(path: Path, digest: str | None, stage: str) -> None:
    """Checks that a file is what a stage wrote; its bytes are always read.

    Args:
        digest: the SHA-256 that it must have; None if it is unknown, then the file only has to exist.
        stage: the stage that wrote it and can write it again.

    Raises:
        DamageError: it is missing or has another hash.
    """
    try:
        with path.open("rb") as file:
            intact = digest is None or hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        intact = False
    if not intact:
        raise DamageError(path, stage)


def file_identity(path: Path | None, setting: str) -> str | None:
    """The hash of the file that a setting names, for a fingerprint; None if the setting is left out.

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
    """SHA-256 of the names and contents of all files below a folder, hexadecimal; shows progress for a large one.

    Raises:
        InputError: it holds more than `MOST_FILES` files, as a folder far above the one that was meant would.
    """
    files = sorted(islice((path for path in folder.rglob("*") if path.is_file()), MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise InputError(
            f"{shorten(str(folder))} holds more than {MOST_FILES:,} files, which would all be read; name the folder of "
            f"the model or of the clips itself"
        )
    total = sum(path.stat().st_size for path in files)
    if total < _LONG:
        return hash_value({str(path.relative_to(folder)): hash_file(path) for path in files})
    with progress(f"read {folder.name} (MB)", total // 10**6) as advance:
        bytes_read = 0

        def advance_bytes(count: int) -> None:
            nonlocal bytes_read
            advance((bytes_read + count) // 10**6 - bytes_read // 10**6)
            bytes_read += count

        return hash_value({str(path.relative_to(folder)): hash_file(path, advance_bytes) for path in files})
