"""What the machine refuses is one sentence that says what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from conftest import run_here
from halovid.cli import main as cli
from halovid.store.troubles import explain_trouble

KEPT = "what is finished is kept: mend this and run the same command again"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, ("can't write /r/x", "No space left", "free some space", KEPT)),
        (errno.EFBIG, ("can't write /r/x", "ulimit -f", KEPT)),
        (errno.EMFILE, ("too many files are open", "ulimit -n", KEPT)),
        (errno.ENFILE, ("too many files are open", KEPT)),
        (errno.EROFS, ("can't write /r/x", "choose a folder that can be written")),
        (errno.EIO, ("/r/x", "Input/output error", "faulty")),
        (errno.ENOMEM, ("not enough memory", "batch_size", "run the same command again")),
    ],
)
def test_errors_of_the_system(code: int, words: tuple[str, ...]) -> None:
    told = explain_trouble(OSError(code, os.strerror(code), "/r/x"))
    assert told is not None and "\n" not in told
    for word in words:
        assert word in told


def test_a_refused_read_is_told_from_a_refused_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch()
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.R_OK)
    assert f"can't read {path}: Permission denied" in str(explain_trouble(error))
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)
    assert f"can't write {path}: Permission denied" in str(explain_trouble(error))


def test_libraries_tell_the_code_in_words() -> None:
    told = explain_trouble(SafetensorError("Error while serializing: I/O error: No space left (os error 28)"))
    assert told is not None and "can't write a file: No space left on device" in told


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
)
def test_lack_of_memory_says_what_to_lower(error: Exception) -> None:
    told = explain_trouble(error)
    assert told is not None
    assert "batch_size" in told and "gradient_checkpointing" in told and "run the same command again" in told


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shapes differ"), OSError("odd"), KeyError("memory")])
def test_mistakes_of_the_program_are_not_hidden(error: Exception) -> None:
    assert explain_trouble(error) is None


def test_what_torch_and_numpy_raise_is_recognised() -> None:
    for allocate in (torch.empty, np.empty):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate(10**15)
        assert "lower the batch_size" in str(explain_trouble(caught.value))
    assert "on the CUDA device" in str(explain_trouble(torch.OutOfMemoryError("CUDA out of memory")))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_the_command_ends_with_one_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", run_out)
    outcome = run_here("run")
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: there is not enough memory") and outcome.stderr.count("\n") == 1
    assert all(name in outcome.stderr for name in ("batch_size", "num_frames", "gradient_checkpointing"))


def test_other_errors_of_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        run_here("run")


def limited(limit: str, code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python under a limit of the shell, as the command runs what a user asks for."""
    script = f"from halovid.cli import main as cli\n{code}\ncli.app = work\ncli.main()\n"
    command = ["bash", "-c", f'ulimit {limit}; exec "{sys.executable}" -c "$0"', script]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))


def test_real_limits_of_files_are_told(tmp_path: Path) -> None:
    large = limited("-f 8", f"def work(**_): open({str(tmp_path / 'a')!r}, 'wb').write(bytes(10**6))")
    assert (large.returncode, large.stderr.count("\n")) == (2, 1), large.stderr
    assert "File too large" in large.stderr and "ulimit -f" in large.stderr
    many = limited("-n 20", f"def work(**_): [open({str(tmp_path / 'a')!r}, 'ab') for _ in range(30)]; 1")
    assert (many.returncode, many.stderr.count("\n")) == (2, 1), many.stderr
    assert "too many files are open" in many.stderr
