"""Stage folders: where a stage writes, when it is complete, and how it continues after a kill.

RUN/<stage>/manifest.json   written last: the stage is complete, but for what it lists to be tried again
RUN/<stage>/parts/*.parquet finished batches of a stage that was interrupted or has something to try again
RUN/superseded/<stage>-*    results of other settings or inputs; they come back when these do
RUN/.lock                   held while a stage writes: one process per run folder
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import torch

from halovid.store.errors import InputError
from halovid.store.files import hash_file, hash_value, write_json, write_text
from halovid.store.parts import PartFolder, joined, uncovered
from halovid.store.runtime import console, progress, set_threads
from halovid.store.tables import rows_to_table, write_table
from halovid.store.work import Executor, Item, LocalExecutor, Work, skipped_entry

T = TypeVar("T")
_PACKAGES = ("halovid", "torch", "diffusers", "transformers", "peft", "safetensors", "pyarrow", "av")
# what a stage wrote: tables, weights, logs, pages; clips are told by the settings that they were made with
_RESULTS = (
    *("*.parquet", "*/*.parquet", "*.safetensors", "*.json", "*.jsonl", "*.html"),
    *("weights/**/*.safetensors", "snapshots/**/*.safetensors"),
)


class StageFolder:
    """The folder that a stage writes, and what it must tell of itself."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.skipped: list[dict[str, Any]] = []
        self.threads: list[int] = []
        self.executor: Executor = LocalExecutor()  # who works on lists of items
        self._made = 0  # rows of all batches

    def skip(self, item: str, reason: str, again: bool = False) -> None:
        """Notes an item that could not be done; it is listed in the manifest and at the end.

        With `again` a later run of the stage tries it once more: another outcome is possible.
        """
        self.skipped.append(skipped_entry(item, reason, again))

    def use_threads(self, threads: int | None) -> None:
        """Limits torch to so many CPU threads (None: all) and keeps a record of it.

        Threads are how a stage is executed, not what it makes, yet they change its rounding: the manifest tells all
        numbers that took part, and a stage that goes on with another one says so.
        """
        set_threads(threads)
        number = torch.get_num_threads()
        record = self.path / "parts" / "threads.json"
        earlier = _read_threads(record)
        if earlier and earlier[-1] != number:
            console.print(f"{self.path.name}: goes on with {number} threads after {earlier[-1]}; rounding may differ")
        self.threads = [*earlier, *([] if number in earlier[-1:] else [number])]
        write_json(record, self.threads)

    def map_batches(
        self, description: str, items: Sequence[Item], size: int, work: Work[Item], schema: pa.Schema
    ) -> pa.Table:
        """The rows that the work makes of all items, batch by batch; finished batches survive a kill.

        What an earlier run has finished is kept whatever its batch size was; a batch that it left with something to
        try again is done anew. The items must be the same when it continues, which the fingerprint ensures.
        """
        folder = PartFolder(self.path / "parts", description, schema)
        parts = folder.read(len(items))
        todo = uncovered((part.items for part in parts), len(items), size)
        with progress(description, len(items), len(items) - sum(map(len, todo))) as advance:
            results = self.executor.map(work, (items[batch.start : batch.stop] for batch in todo))
            for batch, result in zip(todo, results, strict=True):
                parts.append(folder.write(batch, rows_to_table(result.rows, schema), result.skipped))
                advance(len(batch))
        self._made += sum(len(part.table) for part in parts)
        parts.sort(key=lambda part: part.items.start)
        self.skipped += [entry for part in parts for entry in part.skipped]
        return joined(parts, schema)

    def check_outage(self) -> None:
        """Refuses to call the stage complete when nothing came of any item and another time something may.

        Raises:
            InputError: says why, by the first item; the next run tries all of them again.
        """
        outages = [entry["reason"] for entry in self.skipped if "again" in entry]
        if outages and not self._made:
            raise InputError(
                f"{self.path.name}: not one of {len(self.skipped)} items could be done ({outages[0]}); when that is "
                f"mended, run the same command again: nothing that was answered is asked twice"
            )

    def write(self, name: str, table: pa.Table) -> None:
        """Writes a table of this stage."""
        write_table(self.path / name, table)


def _read_threads(record: Path) -> list[int]:
    """The numbers of threads that a stage was worked on with so far, in order; empty where nobody wrote them down."""
    try:
        numbers = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return numbers if isinstance(numbers, list) and all(isinstance(number, int) for number in numbers) else []


def _to_try_again(skipped: list[dict[str, Any]]) -> int:
    """How many of the items left out may come out otherwise another time."""
    return sum("again" in entry for entry in skipped)


@contextmanager
def open_stage(
    run_dir: Path, name: str, config: dict[str, Any], inputs: Sequence[str] = ()
) -> Iterator[StageFolder | None]:
    """The folder to work in, or None when the stage is complete for this config and these inputs.

    A stage that is complete but for items to try again is opened once more; its result stays valid until then.

    On leaving without an error the manifest is written and the stage is complete. What an earlier run with
    another config left is moved to RUN/superseded, never deleted, and comes back when that config does.

    Args:
        config: all settings that the result depends on, JSON values; not those of execution, see `config.sections`.
        inputs: names of the stages that this one reads.

    Raises:
        InputError: an input stage is not complete, the folder can't be written, or another process is at work.
    """
    with _lock(run_dir):
        upstream = {stage: _output_hash(run_dir, stage) for stage in inputs}
        fingerprint = hash_value({"stage": name, "config": config, "inputs": upstream})
        folder = run_dir / name
        _prepare(folder, fingerprint)
        failed = _to_try_again((read_manifest(folder) or {}).get("skipped", []))
        if is_complete(folder, fingerprint) and not failed:
            shutil.rmtree(folder / "parts", ignore_errors=True)  # left when a kill came right after the manifest
            console.print(f"{name}: complete, skipped", style="dim")
            yield None
            return
        if failed:
            console.print(f"{name}: {failed} items that failed earlier are tried again")
        stage = StageFolder(folder, fingerprint)
        yield stage
        _finish(stage, name, config, upstream)


def is_complete(folder: Path, fingerprint: str) -> bool:
    """True when the folder holds a finished stage of this fingerprint whose outputs are all undamaged."""
    manifest = read_manifest(folder)
    if manifest is None or manifest["fingerprint"] != fingerprint:
        return False
    damaged = [name for name, digest in manifest["outputs"].items() if not _matches(folder / name, digest)]
    if damaged:
        console.print(f"{folder.name}: {', '.join(damaged)} missing or damaged, made again", style="yellow")
        (folder / "manifest.json").unlink()
    return not damaged


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None when there is none.

    Raises:
        InputError: the manifest is not readable JSON, or not that of a stage.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run the stage again") from error
    if not isinstance(manifest, dict) or not {"fingerprint", "outputs", "skipped"} <= manifest.keys():
        raise InputError(f"{path} is not the manifest of a stage; delete it and run the stage again")
    return manifest


def is_imported(run_dir: Path, stage: str) -> bool:
    """True when a stage was not run but made from the same data as the run's clips, see `halovid.commands.exchange`."""
    sources = [(read_manifest(run_dir / name) or {}).get("config", {}).get("imported") for name in ("generate", stage)]
    return sources[0] is not None and sources[0] == sources[1]


def is_current(run_dir: Path, stage: str) -> bool:
    """True when a stage is complete and was made from what the stages before it hold now."""
    manifest = read_manifest(run_dir / stage)
    if manifest is None:
        return False
    if "imported" in manifest["config"] and not is_imported(run_dir, stage):
        return False
    return all(
        is_current(run_dir, name) and _output_hash(run_dir, name) == digest
        for name, digest in manifest["inputs"].items()
    )


def _output_hash(run_dir: Path, stage: str) -> str:
    """Identity of what an upstream stage wrote: its outputs, and the settings that its clips were made with."""
    manifest = read_manifest(run_dir / stage)
    if manifest is None:
        raise InputError(f"the stage {stage!r} is not complete in {run_dir}; run `halovid {stage}` first")
    return hash_value({"fingerprint": manifest["fingerprint"], "outputs": manifest["outputs"]})


def _matches(path: Path, digest: str) -> bool:
    return path.exists() and hash_file(path) == digest


def _prepare(folder: Path, fingerprint: str) -> None:
    """Makes `folder` that of this fingerprint: empty, or what an earlier run of the same left there or set aside."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} must be a folder of this stage; move it away, or choose another run folder")
    mark = folder / "fingerprint"
    if not (mark.exists() and mark.read_text() == fingerprint):
        if folder.exists() and any(folder.iterdir()):
            target = _set_aside(folder)
            console.print(f"{folder.name}: settings or inputs changed; earlier result now {target}", style="yellow")
        earlier = folder.parent / "superseded" / f"{folder.name}-{fingerprint[:12]}"
        if earlier.exists():
            if folder.exists():
                folder.rmdir()
            earlier.rename(folder)
            console.print(f"{folder.name}: an earlier result of these settings and inputs is taken from {earlier}")
    folder.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        write_text(mark, fingerprint)
    for leftover in folder.rglob(".*.*"):  # temporary files of a process that was killed, see atomic_path
        leftover.unlink()


def _set_aside(folder: Path) -> Path:
    """Moves a stage folder to RUN/superseded, under a name that is free there; the new path."""
    mark = folder / "fingerprint"
    name = f"{folder.name}-{mark.read_text()[:12] if mark.exists() else 'unknown'}"
    superseded = folder.parent / "superseded"
    superseded.mkdir(exist_ok=True)
    candidates = itertools.chain([superseded / name], (superseded / f"{name}-{i}" for i in itertools.count(2)))
    return folder.rename(next(path for path in candidates if not path.exists()))


def _finish(stage: StageFolder, name: str, config: dict[str, Any], inputs: dict[str, str]) -> None:
    """Writes the manifest, which makes the stage complete, and tells what was skipped."""
    results = {path for pattern in _RESULTS for path in stage.path.glob(pattern)}
    results -= {*stage.path.glob("parts/*"), stage.path / "manifest.json"}  # left by a run with something to try again
    manifest = {
        "stage": name,
        "fingerprint": stage.fingerprint,
        "config": config,
        "inputs": inputs,
        "outputs": {str(path.relative_to(stage.path)): hash_file(path) for path in sorted(results)},
        "skipped": stage.skipped,
        "threads": stage.threads,
        "versions": versions(),
    }
    write_json(stage.path / "manifest.json", manifest)
    if not _to_try_again(stage.skipped):  # only now: without a manifest the parts are all that there is
        shutil.rmtree(stage.path / "parts", ignore_errors=True)
    if stage.skipped:
        first = "; ".join(f"{entry['item']}: {entry['reason']}" for entry in stage.skipped[:3])
        told = f"{name}: {len(stage.skipped)} skipped ({first}); all in {stage.path}/manifest.json"
        console.print(told, style="yellow")


def versions() -> dict[str, str]:
    """Python's and the main packages' versions."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | found


@contextmanager
def _lock(run_dir: Path) -> Iterator[None]:
    """Holds the run folder for this process; the lock goes with the process, however it ends."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"can't write the run folder {run_dir}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    except BlockingIOError as error:
        owner = os.pread(handle, 20, 0).decode() or "?"
        raise InputError(f"{run_dir} is in use by process {owner}; wait for it or choose another folder") from error
    finally:
        os.close(handle)
