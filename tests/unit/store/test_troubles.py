"""What the machine refuses is one sentence that says what to do."""

from __future__ import annotations

import errno
import importlib
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError

from conftest import run_here
from halovid.cli import main as cli
from halovid.config.recipes import make_config
from halovid.config.run import RunConfig
from halovid.config.sections import section_fields
from halovid.maths.grid import read_geometry
from halovid.models.loading import readable
from halovid.stages import STAGES, run_stage
from halovid.store.checkpoint import load_tensors, save_tensors
from halovid.store.errors import InputError, MachineError
from halovid.store.files import write_json
from halovid.store.foreign import read_parquet, read_text
from halovid.store.parts import PartFolder
from halovid.store.tables import PAIRS, read_table, write_table
from halovid.store.troubles import explain_trouble
from halovid.store.video import probe_video, read_video, write_video

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


@pytest.mark.parametrize("name", list(STAGES))
def test_a_stage_that_runs_out_of_memory_names_its_own_settings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(importlib.import_module(f"halovid.stages.{name}"), "run", run_out)
    with pytest.raises(MachineError, match=f"^{name}: there is not enough memory on the CUDA device: lower ") as told:
        run_stage(name, make_config({}), tmp_path)
    settings = re.findall(r"\b([a-z_]+)\.([a-z_]+)\b", str(told.value))
    assert settings
    for section, setting in settings:
        assert setting in section_fields(RunConfig.model_fields[section].annotation)
    if name in ("good", "repair", "restore", "score", "reward", "align"):
        assert f"{name}.batch_size" in str(told.value)
    elif name in ("generate", "baseline", "evaluate"):
        assert "generator.batch_size" in str(told.value)


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


def test_a_real_limit_of_memory_is_told() -> None:
    large = limited("-v 6000000", "import numpy\ndef work(**_): [numpy.ones(2**28) for _ in range(8)]")
    assert (large.returncode, large.stderr.count("\n")) == (2, 1), large.stderr
    assert "there is not enough memory" in large.stderr


@contextmanager
def no_more_files() -> Iterator[None]:
    """Inside, no further file can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of every kind, whole."""
    folder = tmp_path_factory.mktemp("whole")
    files = {name: folder / name for name in ("clip.mp4", "table.parquet", "any.parquet", "tensors", "geometry.json")}
    write_video(files["clip.mp4"], torch.zeros(3, 9, 16, 16), 8)
    write_table(files["table.parquet"], PAIRS.empty_table())
    write_table(files["any.parquet"], pa.table({"a": [1]}))
    save_tensors(files["tensors"], {"a": torch.zeros(2)})
    write_json(files["geometry.json"], {"temporal_stride": 4, "spatial_stride": 8, "causal_first_frame": True})
    return files


READERS: dict[str, Callable[[dict[str, Path]], object]] = {
    "clips": lambda files: read_video(files["clip.mp4"]),
    "facts of clips": lambda files: probe_video(files["clip.mp4"]),
    "tables": lambda files: read_table(files["table.parquet"], PAIRS),
    "foreign tables": lambda files: read_parquet(files["any.parquet"]),
    "texts": lambda files: read_text(files["geometry.json"]),
    "tensors": lambda files: load_tensors(files["tensors"]),
    "geometry": lambda files: read_geometry(files["geometry.json"].parent),
}


@pytest.mark.parametrize("reader", list(READERS))
def test_lack_of_handles_is_no_fault_of_a_file(reader: str, whole_files: dict[str, Path]) -> None:
    """Else whole clips would be left out and whole results made anew."""
    READERS[reader](whole_files)
    with no_more_files(), pytest.raises(Exception, match=r"open files|Too many") as caught:
        READERS[reader](whole_files)
    assert not isinstance(caught.value, InputError)
    assert "too many files are open at once" in str(explain_trouble(caught.value))


def test_lack_of_handles_deletes_no_finished_part(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path / "parts", "work", pa.schema({"a": pa.int64()}))
    folder.write(range(2), pa.table({"a": [1, 2]}), [])
    with no_more_files(), pytest.raises(OSError, match="open files"):
        folder.read(2)
    assert len(folder.read(2)) == 1


def test_lack_of_memory_deletes_no_finished_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PartFolder(tmp_path / "parts", "work", pa.schema({"a": pa.int64()}))
    folder.write(range(2), pa.table({"a": [1, 2]}), [])

    def run_out(*_: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "read_table", run_out)
        with pytest.raises(MemoryError):
            folder.read(2)
    assert len(folder.read(2)) == 1


def test_lack_of_memory_is_no_fault_of_a_model() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        with pytest.raises(RuntimeError, match="memory") as caught, readable("the model", "download it again"):
            raise error
        assert not isinstance(caught.value, InputError)


def test_real_limits_of_files_are_told(tmp_path: Path) -> None:
    large = limited("-f 8", f"def work(**_): open({str(tmp_path / 'a')!r}, 'wb').write(bytes(10**6))")
    assert (large.returncode, large.stderr.count("\n")) == (2, 1), large.stderr
    assert "File too large" in large.stderr and "ulimit -f" in large.stderr
    many = limited("-n 20", f"def work(**_): [open({str(tmp_path / 'a')!r}, 'ab') for _ in range(30)]; 1")
    assert (many.returncode, many.stderr.count("\n")) == (2, 1), many.stderr
    assert "too many files are open" in many.stderr
