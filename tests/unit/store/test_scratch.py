"""What is built apart appears whole or not at all, and a kill leaves nothing for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from halovid.store.errors import InputError
from halovid.store.scratch import scratch_folder


def build_and_die(target: Path, replaced: bool) -> None:
    with scratch_folder(target) as unfinished:
        (unfinished / "half.txt").write_text("half")
        if replaced:
            unfinished.replace(target)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("replaced", [False, True])
def test_what_a_kill_leaves_is_removed_by_the_next_of_the_same_target(tmp_path: Path, replaced: bool) -> None:
    process = multiprocessing.get_context("fork").Process(target=build_and_die, args=(tmp_path / "out", replaced))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / ".out.unfinished").exists() and (tmp_path / "out").exists() == replaced
    (tmp_path / ".out.notes.txt").write_text("somebody's")
    with scratch_folder(tmp_path / "other"):
        pass
    assert (tmp_path / ".out.unfinished").exists()  # of another target
    with scratch_folder(tmp_path / "out") as unfinished:
        assert list(unfinished.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {".out.notes.txt", *(["out"] if replaced else [])}


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path / "deep" / "out") as unfinished:
        (unfinished / "half.txt").write_text("half")
        raise ZeroDivisionError
    assert list((tmp_path / "deep").iterdir()) == []


def test_two_at_once_are_told_and_do_not_disturb_each_other(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "out") as unfinished:
        (unfinished / "half.txt").write_text("half")
        with pytest.raises(InputError, match="another process is making"), scratch_folder(tmp_path / "out"):
            raise AssertionError
        assert (unfinished / "half.txt").read_text() == "half"


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "notes.txt").write_text("somebody's")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="holds something else; move it away"), scratch_folder(tmp_path / "out"):
        raise AssertionError
    assert (tmp_path / ".out.unfinished" / "notes.txt").read_text() == "somebody's"
    with pytest.raises(InputError, match="can't write beside"), scratch_folder(tmp_path / "file" / "out"):
        raise AssertionError
