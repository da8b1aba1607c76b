"""Parts: the finished batches of a stage, as Parquet files that survive a kill.

PARTS/<description>-<first>-<stop>-<hash>.parquet    the rows of the items first .. stop - 1

A part covers a range of items, not a numbered batch, so a stage that continues with another batch size divides only the
items that are not covered yet. The file's name holds the beginning of the SHA-256 of its bytes, which reveals damage.
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
    """The rows that a range of items gave, and the items that were skipped, as a manifest lists them."""

    items: range
    table: pa.Table
    skipped: Skipped
    path: Path

    @property
    def to_try_again(self) -> bool:
        """Whether an item was skipped that may succeed another time."""
        return any("again" in entry for entry in self.skipped)


class PartFolder:
    """Reads and writes the parts of one list of items.

    Args:
        folder: holds the parts; paths of files that rows name start from the folder above it.
        description: tells the parts of this list from those of others in the folder.
        schema: of the rows.
    """

    def __init__(self, folder: Path, description: str, schema: pa.Schema) -> None:
        self._folder, self._stage, self._schema = folder, folder.parent, schema
        self._prefix = description.replace(" ", "-")

    def read(self, count: int) -> list[Part]:
        """The usable parts of `count` items, in order; parts that are damaged or to be tried again are deleted.

        A part also counts as damaged when a file that its rows name is.
        """
        usable: list[Part] = []
        for path in sorted(self._folder.glob(f"{self._prefix}-*.parquet")):
            match = _NAME.fullmatch(path.name.removeprefix(self._prefix))
            if match is None:  # a part of another list whose description begins with the same words
                continue
            items = range(int(match["first"]), int(match["stop"]))
            part = self._read_part(path, items) if hash_file(path).startswith(match["hash"]) else None
            overlaps = bool(usable) and items.start < usable[-1].items.stop
            if part is None or not items or items.stop > count or overlaps or damaged_files(self._stage, part.table):
                console.print(f"{path} is damaged; what it holds is made again", style="yellow")
                path.unlink()
            elif part.to_try_again:
                path.unlink()
            else:
                usable.append(part)
        return usable

    def write(self, items: range, table: pa.Table, skipped: Skipped) -> Part:
        """Writes the part of a range of items: the rows they gave, and the items that were skipped."""
        metadata = {**(self._schema.metadata or {}), _SKIPPED: json.dumps(skipped).encode()}
        buffer = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), buffer)
        content = buffer.getvalue().to_pybytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = self._folder / f"{self._prefix}-{items.start:06d}-{items.stop:06d}-{digest}.parquet"
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return Part(items, table.replace_schema_metadata(self._schema.metadata), skipped, path)

    def _read_part(self, path: Path, items: range) -> Part | None:
        """The part in a file; None if it is not of this schema, as after an update of halovid."""
        try:
            table = pq.read_table(path)
            skipped = json.loads(table.schema.metadata[_SKIPPED])
            table = table.select(self._schema.names).cast(self._schema)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise_shortage(error)
            return None
        return Part(items, table, skipped, path)


def damaged_files(folder: Path, table: pa.Table) -> list[Path]:
    """The files that a table names, relative to `folder`, that are missing or have another hash."""
    return [folder / name for name, digest in named_files(table) if not is_intact(folder / name, digest)]


def uncovered(finished: Iterable[range], count: int, size: int) -> list[range]:
    """The items 0 .. count - 1 that lie in no finished range, as ranges of at most `size` items.

    Args:
        finished: ranges in order that do not overlap.
    """
    batches: list[range] = []
    start = 0
    for covered in (*finished, range(count, count)):
        batches += [range(first, min(first + size, covered.start)) for first in range(start, covered.start, size)]
        start = covered.stop
    return batches


def joined(parts: Sequence[Part], schema: pa.Schema) -> pa.Table:
    """The rows of all parts as one table, which is the same however the items were divided."""
    tables = [part.table for part in parts]
    return pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()
