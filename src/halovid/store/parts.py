"""Finished batches of a stage: Parquet files that outlive a kill.

PARTS/<description>-<first>-<stop>-<hash>.parquet    what became of the items first .. stop - 1

A part covers a range of items, not a numbered batch, so a stage that goes on with another batch size cuts only what is
not covered yet. The file's name holds the beginning of the SHA-256 of its bytes: a damaged part is told by its name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from halovid.store.files import atomic_path, hash_file, is_intact
from halovid.store.runtime import console
from halovid.store.tables import named_files
from halovid.store.troubles import raise_shortage

Skipped = list[dict[str, Any]]
_SKIPPED = b"halovid.skipped"
_NAME = re.compile(r"-(?P<first>\d{6,})-(?P<stop>\d{6,})-(?P<hash>[0-9a-f]{16})\.parquet")


@dataclass(frozen=True)
class Part:
    """The rows that came of a range of items, and which of them were skipped."""

    items: range
    table: pa.Table
    skipped: Skipped
    path: Path

    @property
    def to_try_again(self) -> bool:
        """Whether an item was skipped that may come out otherwise another time."""
        return any("again" in entry for entry in self.skipped)


class PartFolder:
    """The parts of one list of items; files that their rows name lie beside the folder of parts."""

    def __init__(self, folder: Path, description: str, schema: pa.Schema) -> None:
        self._folder, self._stage, self._schema = folder, folder.parent, schema
        self._prefix = description.replace(" ", "-")

    def read(self, count: int) -> list[Part]:
        """All finished parts of `count` items, in order; what is damaged or to be tried again is deleted.

        A part is damaged, too, when a file that its rows name is.
        """
        kept: list[Part] = []
        for path in sorted(self._folder.glob(f"{self._prefix}-*.parquet")):
            match = _NAME.fullmatch(path.name.removeprefix(self._prefix))
            if match is None:  # of another list, whose description begins alike
                continue
            items = range(int(match["first"]), int(match["stop"]))
            part = self._read_part(path, items) if hash_file(path).startswith(match["hash"]) else None
            overlaps = bool(kept) and items.start < kept[-1].items.stop
            if part is None or not items or items.stop > count or overlaps or damaged_files(self._stage, part.table):
                console.print(f"{path} is damaged; what it holds is made again", style="yellow")
                path.unlink()
            elif part.to_try_again:
                path.unlink()
            else:
                kept.append(part)
        return kept

    def write(self, items: range, table: pa.Table, skipped: Skipped) -> Part:
        """Keeps what became of a range of items."""
        noted = table.replace_schema_metadata({**(self._schema.metadata or {}), _SKIPPED: json.dumps(skipped).encode()})
        buffer = pa.BufferOutputStream()
        pq.write_table(noted, buffer)
        content = buffer.getvalue().to_pybytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = self._folder / f"{self._prefix}-{items.start:06d}-{items.stop:06d}-{digest}.parquet"
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return Part(items, table.replace_schema_metadata(self._schema.metadata), skipped, path)

    def _read_part(self, path: Path, items: range) -> Part | None:
        """A part; None when it is not one of this schema, as one of another version of halovid."""
        try:
            table = pq.read_table(path)
            skipped = json.loads(table.schema.metadata[_SKIPPED])
            table = table.select(self._schema.names).cast(self._schema)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise_shortage(error)
            return None
        return Part(items, table, skipped, path)


def damaged_files(folder: Path, table: pa.Table) -> list[Path]:
    """The files named by a table of a folder that are missing or not what they were."""
    return [folder / name for name, digest in named_files(table) if not is_intact(folder / name, digest)]


def uncovered(finished: Iterable[range], count: int, size: int) -> list[range]:
    """The items 0 .. count - 1 that lie in no finished range, in runs of at most `size`.

    Args:
        finished: ranges in order that do not overlap.
    """
    gaps: list[range] = []
    start = 0
    for covered in (*finished, range(count, count)):
        gaps += [range(first, min(first + size, covered.start)) for first in range(start, covered.start, size)]
        start = covered.stop
    return gaps


def joined(parts: Sequence[Part], schema: pa.Schema) -> pa.Table:
    """The rows of all parts as one piece: equal however they were cut."""
    tables = [part.table for part in parts]
    return pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()
