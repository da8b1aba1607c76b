"""Stage folders: where a stage writes, when it is complete, and how it continues after a kill.

RUN/<stage>/manifest.json   written last: the stage is complete, except for items that it lists to be tried again
RUN/<stage>/fingerprint     of which settings and inputs this is the result, also before it is complete
RUN/<stage>/parts/*.parquet finished batches, to continue from, and to repair what gets damaged later
RUN/superseded/<stage>-*    results of other settings or inputs, which are used again when these return
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from halovid.store.errors import InputError
from halovid.store.files import TEMPORARY, hash_file, hash_value, write_json, write_text
from halovid.store.lock import locked
from halovid.store.manifests import check_stage, is_complete, read_manifest, versions, write_manifest
from halovid.store.parts import PartFolder, joined, uncovered
from halovid.store.runtime import console, progress, set_threads
from halovid.store.tables import rows_to_table, write_table
from halovid.store.work import Executor, Item, LocalExecutor, Row, Work, skipped_entry

# Files whose hashes go into the manifest. Those of clips and latents are in the tables that name them.
_RESULTS = (
    *("*.parquet", "*/*.parquet", "*.safetensors", "*.json", "*.jsonl", "*.html"),
    *("prompts/*.safetensors", "weights/**/*", "snapshots/**/*"),
)
_KEPT_PARTS = ("*.parquet", "threads.json")  # files in parts/ that outlive a complete stage
_HASH = re.compile(r"[0-9a-f]{64}")


class StageFolder:
    """The folder that a stage writes to, and what its manifest will say of the stage."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.skipped: list[dict[str, Any]] = []
        self.threads: list[int] = []
        self.executor: Executor = LocalExecutor()  # who works on lists of items
        self._num_rows = 0  # rows of all batches

    def skip(self, item: str, reason: str, again: bool = False) -> None:
        """Notes an item that could not be done; it is listed in the manifest and at the end.

        With `again` a later run of the stage tries it once more: another outcome is possible.
        """
        self.skipped.append(skipped_entry(item, reason, again))

    def use_threads(self, threads: int | None) -> None:
        """Limits torch to `threads` CPU threads (None: all) and records the number.

        The number of threads is no part of a stage's identity, but changes its rounding. So the manifest lists all
        numbers that a result was computed with, and a stage that continues with another number prints a notice.
        """
        set_threads(threads)
        num_threads = torch.get_num_threads()
        record = self.path / "parts" / "threads.json"
        earlier = _read_threads(record)
        if earlier and earlier[-1] != num_threads:
            console.print(
                f"{self.path.name}: goes on with {num_threads} threads after {earlier[-1]}; rounding may differ"
            )
        self.threads = [*earlier, *([] if num_threads in earlier[-1:] else [num_threads])]
        write_json(record, self.threads)

    def map_batches(
        self,
        description: str,
        items: Sequence[Item],
        size: int,
        work: Work[Item],
        schema: pa.Schema,
        note: Callable[[Sequence[Row]], str] = lambda rows: "",
    ) -> pa.Table:
        """The rows that the work makes of all items, in batches of `size`; finished batches survive a kill.

        Batches that an earlier run has finished are kept, whatever their size, except those with items to be tried
        again. The items must be those of the earlier run, which the fingerprint ensures.

        Args:
            note: what the progress bar says of the rows of the latest batch.
        """
        folder = PartFolder(self.path / "parts", description, schema)
        parts = folder.read(len(items))
        batches = uncovered((part.items for part in parts), len(items), size)
        with progress(description, len(items), len(items) - sum(map(len, batches))) as advance:
            results = self.executor.map(work, (items[batch.start : batch.stop] for batch in batches))
            for batch, result in zip(batches, results, strict=True):
                parts.append(folder.write(batch, rows_to_table(result.rows, schema), result.skipped))
                advance(len(batch), note(result.rows))
        self._num_rows += sum(len(part.table) for part in parts)
        parts.sort(key=lambda part: part.items.start)
        self.skipped += [entry for part in parts for entry in part.skipped]
        return joined(parts, schema)

    def check_outage(self) -> None:
        """Keeps the stage incomplete if no item gave a row and some may do so another time.

        Raises:
            InputError: with the reason of the first such item; the next run tries all items again.
        """
        reasons = [entry["reason"] for entry in self.skipped if "again" in entry]
        if reasons and not self._num_rows:
            raise InputError(
                f"{self.path.name}: not one of {len(self.skipped)} items could be done ({reasons[0]}); when that is "
                f"mended, run the same command again: nothing that was answered is asked twice"
            )

    def write(self, name: str, table: pa.Table) -> None:
        """Writes a table to the file `name` in this stage's folder."""
        write_table(self.path / name, table)


def _read_threads(record: Path) -> list[int]:
    """The numbers of threads that a stage has used so far, in order; empty if there is no readable record."""
    try:
        numbers = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return numbers if isinstance(numbers, list) and all(isinstance(number, int) for number in numbers) else []


def _count_retryable(skipped: list[dict[str, Any]]) -> int:
    """How many of the skipped items are to be tried again by the next run."""
    return sum("again" in entry for entry in skipped)


@contextmanager
def open_stage(
    run_dir: Path, name: str, config: dict[str, Any], inputs: Sequence[str] = ()
) -> Iterator[StageFolder | None]:
    """The folder to work in, or None when the stage is complete for this config and these inputs.

    When the block ends without an error, the manifest is written and the stage is complete. A complete stage that lists
    items to be tried again is opened once more; its result stays valid meanwhile. The result of another config is moved
    to RUN/superseded, never deleted, and moved back when that config returns.

    Args:
        config: all settings that the result depends on, JSON values; not those of execution, see `config.sections`.
        inputs: names of the stages that this one reads.

    Raises:
        InputError: an input stage is not complete, the folder can't be written, or another process is at work.
    """
    with locked(run_dir):
        upstream = {stage: check_stage(run_dir, stage) for stage in inputs}
        fingerprint = hash_value({"stage": name, "config": config, "inputs": upstream})
        folder = run_dir / name
        _prepare(folder, fingerprint)
        num_failed = _count_retryable((read_manifest(folder) or {}).get("skipped", []))
        if is_complete(folder, fingerprint) and not num_failed:
            _clear_parts(folder)  # left when a kill came right after the manifest
            console.print(f"{name}: complete, skipped", style="dim")
            yield None
            return
        if num_failed:
            console.print(f"{name}: {num_failed} items that failed earlier are tried again")
        stage = StageFolder(folder, fingerprint)
        yield stage
        _finish(stage, name, config, upstream)


def _prepare(folder: Path, fingerprint: str) -> None:
    """Makes `folder` the one of this fingerprint: empty, or with what an earlier run of it has left or set aside.

    A result of another fingerprint is set aside; files that a killed process was writing are deleted.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} must be a folder of this stage; move it away, or choose another run folder")
    if _fingerprint_of(folder) != fingerprint:
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
    if _read_fingerprint_file(folder) != fingerprint:
        write_text(folder / "fingerprint", fingerprint)
    for leftover in folder.rglob(f"{TEMPORARY}*"):  # of a process that was killed, see atomic_path
        if leftover.is_file():
            leftover.unlink()


def _fingerprint_of(folder: Path) -> str | None:
    """The fingerprint of the result in a folder, by its manifest, else by its file `fingerprint`; None if unknown."""
    with contextlib.suppress(InputError):
        manifest = read_manifest(folder)
        if manifest is not None:
            return str(manifest["fingerprint"])
    return _read_fingerprint_file(folder)


def _read_fingerprint_file(folder: Path) -> str | None:
    """The fingerprint that a stage wrote when it began; None if there is none or it is damaged."""
    try:
        text = (folder / "fingerprint").read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return text if _HASH.fullmatch(text) else None


def _set_aside(folder: Path) -> Path:
    """Moves a stage folder to RUN/superseded, under a name that is free there, and returns the new path."""
    name = f"{folder.name}-{(_fingerprint_of(folder) or 'unknown')[:12]}"
    superseded = folder.parent / "superseded"
    superseded.mkdir(exist_ok=True)
    candidates = itertools.chain([superseded / name], (superseded / f"{name}-{i}" for i in itertools.count(2)))
    return folder.rename(next(path for path in candidates if not path.exists()))


def _finish(stage: StageFolder, name: str, config: dict[str, Any], inputs: dict[str, str]) -> None:
    """Writes the manifest, which makes the stage complete, and prints what was skipped."""
    results = {path for pattern in _RESULTS for path in stage.path.glob(pattern) if path.is_file()}
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
    write_manifest(stage.path, manifest)
    if not _count_retryable(stage.skipped):  # only now: without a manifest the parts are all that there is
        _clear_parts(stage.path)
    if stage.skipped:
        first = "; ".join(f"{entry['item']}: {entry['reason']}" for entry in stage.skipped[:3])
        notice = f"{name}: {len(stage.skipped)} skipped ({first}); all in {stage.path}/manifest.json"
        console.print(notice, style="yellow")


def _clear_parts(folder: Path) -> None:
    """Deletes what a complete stage needs no more, as checkpoints; finished batches are kept to repair damage."""
    kept = {path for pattern in _KEPT_PARTS for path in folder.glob(f"parts/{pattern}")}
    for path in set(folder.glob("parts/*")) - kept:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
