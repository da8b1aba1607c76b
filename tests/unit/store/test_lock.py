"""One process per run folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from halovid.store.errors import InputError
from halovid.store.lock import locked


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        words = f"run is in use by process {os.getpid()}; wait for it or choose another folder"
        with pytest.raises(InputError, match=words), locked(tmp_path / "run"):
            pass
        with pytest.raises(InputError, match=words), locked(tmp_path / "run"):
            pass
    with locked(tmp_path / "run"), locked(tmp_path / "other"):
        pass


def test_the_lock_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\nfrom halovid.store.lock import locked\n"
        f"with locked(pathlib.Path({str(tmp_path)!r})):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"in use by process {process.pid}"), locked(tmp_path):
            pass
        process.kill()
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"can't write the run folder .*file/run: "), locked(tmp_path / "file" / "run"):
        pass
