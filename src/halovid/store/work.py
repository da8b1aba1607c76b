"""Work: what a stage does to batches of items, and the executors that run it.

A work is plain settings, so it can be sent to another process. There it is opened, which loads the models and folders
that it needs, and then gets one batch after the other. It writes files of its own (clips, latents) and returns rows;
the stage writes tables, parts and the manifest. Neither the executor nor the size of the batches changes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Worked = TypeVar("Worked", contravariant=True)  # the type of a work's items
Row = dict[str, Any]


class Skip(Protocol):
    """Called for an item that could not be done, with the reason; `again`: a later run may succeed."""

    def __call__(self, item: str, reason: str, again: bool = False) -> None: ...


Worker = Callable[[Sequence[Item], Skip], list[Row]]


@dataclass(frozen=True)
class BatchResult:
    """The result of a batch: rows of the stage's table, and the items that were skipped, as a manifest lists them."""

    rows: list[Row]
    skipped: list[dict[str, Any]]


class Work(Protocol[Worked]):
    """What to do with items, as plain settings; can be pickled, as the items can."""

    def open(self) -> Worker[Worked]:
        """The function that does the work, after loading what it needs into this process.

        It takes a batch of items and a `Skip`, which it calls for items that it can't do, and returns the rows of the
        others. An item's rows must not depend on the rest of the batch.
        """


class Executor(Protocol):
    """Runs work, in this process or elsewhere."""

    def map(self, work: Work[Item], batches: Iterable[Sequence[Item]]) -> Iterator[BatchResult]:
        """The result of each batch, in the order of the batches, each as soon as it is known.

        The work is opened only if there is a batch. Its exceptions end the iteration.
        """


class LocalExecutor:
    """The executor that works in this process, one batch after the other."""

    def map(self, work: Work[Item], batches: Iterable[Sequence[Item]]) -> Iterator[BatchResult]:
        """See `Executor.map`."""
        worker: Worker[Item] | None = None
        for batch in batches:
            worker = worker or work.open()
            yield do_batch(worker, batch)


def do_batch(worker: Worker[Item], batch: Sequence[Item]) -> BatchResult:
    """The result of one batch."""
    skipped: list[dict[str, Any]] = []

    def skip(item: str, reason: str, again: bool = False) -> None:
        skipped.append(skipped_entry(item, reason, again))

    return BatchResult(worker(batch, skip), skipped)


def skipped_entry(item: str, reason: str, again: bool) -> dict[str, Any]:
    """A skipped item as a manifest lists it; `again`: a later run may succeed."""
    return {"item": item, "reason": reason} | ({"again": True} if again else {})
