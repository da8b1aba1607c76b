"""How several processes share a training: the `Parallel` protocol, and `OneProcess`, which shares with nobody."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Parallel(Protocol):
    """Data parallelism: each process works on a slice of every batch, and the result is that of one process.

    The methods are collective operations: all processes must call them in the same order. Only rank 0 writes
    checkpoints, logs and results.
    """

    rank: int
    """The number of this process, 0 .. size - 1."""
    size: int
    """The number of processes."""

    def slice(self, count: int) -> range:
        """The rows that this process works on, of a batch of `count`: consecutive, nearly equally many per process."""

    def wrap(self, module: nn.Module) -> None:
        """Prepares a network in place, e.g. shards it. May replace parameters: collect them afterwards."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes; a sharded one (a DTensor) is returned as it is: a mean already."""

    def all_true(self, value: bool) -> bool:
        """Whether `value` is true in every process."""

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of the whole batch, in order, from the rows of each process's slice."""


class OneProcess:
    """The `Parallel` of a single process: every method is the identity."""

    rank = 0
    size = 1

    def slice(self, count: int) -> range:
        """All rows."""
        return range(count)

    def wrap(self, module: nn.Module) -> None:
        """Changes nothing."""

    def mean(self, value: Tensor) -> Tensor:
        """The tensor itself."""
        return value

    def all_true(self, value: bool) -> bool:
        """The value itself."""
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows
