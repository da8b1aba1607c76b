"""One process at a time in a run folder.

RUN/.lock        locked while a stage writes; the lock goes with the process, however it ends
RUN/.lock-owner  the number of the process that took it last
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from halovid.store.errors import InputError
from halovid.store.files import write_text


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """A context in which this process alone works in a run folder; the folder is made if there is none.

    Raises:
        InputError: another process works in it, or it can't be written.
    """
    owner = run_dir / ".lock-owner"
    lock = FileLock(run_dir / ".lock", timeout=0)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        process = owner.read_text() if owner.exists() else "?"
        raise InputError(f"{run_dir} is in use by process {process}; wait for it or choose another folder") from error
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"can't write the run folder {run_dir}: {reason}") from error
    try:
        write_text(owner, str(os.getpid()))
        yield
    finally:
        lock.release()
