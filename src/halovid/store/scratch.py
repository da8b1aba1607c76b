"""A hidden folder in which a command builds a result that must appear whole or not at all, even after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from halovid.store.errors import InputError

_MARK = ".halovid"  # file that tells a scratch folder from folders of others; locked by the process that works in it


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """An empty folder on the disk of `target`, to build it in and then move it into place by `Path.replace`.

    It is inside a hidden folder beside `target`, which is deleted at the end; what a killed process has left is deleted
    by the next command with the same target.

    Raises:
        InputError: another process is making the same target, something else has the hidden folder's name, or nothing
            can be written there.
    """
    hidden = target.parent / f".{target.name}.unfinished"
    try:
        hidden.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't write beside {target}: {error.strerror}") from error
    if any(hidden.iterdir()) and not (hidden / _MARK).exists():
        raise InputError(f"{hidden} is needed to build {target} and holds something else; move it away")
    lock = FileLock(hidden / _MARK, timeout=0)  # it goes with the process, however that ends
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"another process is making {target}; wait for it, or name another place") from error
    try:
        content = hidden / "content"
        if content.exists():
            shutil.rmtree(content)
        content.mkdir()
        yield content
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        lock.release()
