"""Work: what a stage does to a batch of items, and the executors that have it done.

A work is plain settings, so it can be sent to another process. There it is opened, which loads the models and folders
that it needs, and then gets one batch after the other. It writes files of its own (clips, latents) and returns rows;
tables, parts and the manifest are the stage's affair. Which executor did the work, and in batches of which size, is no
part of a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Worked = TypeVar("Worked", contravariant=True)  # an item of a work, which only takes such items
Row = dict[str, Any]


class Skip(Protocol):
    """Is told of an item that could not be done, why, and whether another time may help."""

    def __call__(self, item: str, reason: str, again: bool = False) -> None: ...


Worker = Callable[[Sequence[Item], Skip], list[Row]]


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch: rows of the stage's table, and the items that were skipped, as a manifest lists them."""

    rows: list[Row]
    skipped: list[dict[str, Any]]


class Work(Protocol[Worked]):
    """Plain settings that tell what to do with items; can be pickled, as the items can."""

    def open(self) -> Worker[Worked]:
        """The function that does it, with all that it needs loaded into this process.

        Given a batch of items it returns rows and tells its second argument of the items that it skips. An item's rows
        are its own, whatever is in the batch besides.
        """


class Executor(Protocol):
    """Has work done, in this process or elsewhere."""

    def map(self, work: Work[Item], batches: Iterable[Sequence[Item]]) -> Iterator[BatchResult]:
        """What became of each batch, in the order of the batches, as soon as it is known.

        Work is opened only when there is a batch. Its exceptions end the iteration.
        """


class LocalExecutor:
    """The executor that does everything here, one batch after the other."""

    def map(self, work: Work[Item], batches: Iterable[Sequence[Item]]) -> Iterator[BatchResult]:
        """See `Executor.map`."""
        worker: Worker[Item] | None = None
        for batch in batches:
            worker = worker or work.open()
            yield do_batch(worker, batch)


def do_batch(worker: Worker[Item], batch: Sequence[Item]) -> BatchResult:
    """What becomes of one batch."""
    skipped: list[dict[str, Any]] = []

    def skip(item: str, reason: str, again: bool = False) -> None:
        skipped.append(skipped_entry(item, reason, again))

    return BatchResult(worker(batch, skip), skipped)


def skipped_entry(item: str, reason: str, again: bool) -> dict[str, Any]:
    """An item that was skipped, as a manifest lists it; `again`: another time may help."""
    return {"item": item, "reason": reason} | ({"again": True} if again else {})
