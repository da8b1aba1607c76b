"""The processes that share a training, and the usual case of one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Parallel(Protocol):
    """How several processes train what one would: each works on its rows of every batch, and they agree on the rest.

    All processes must call these methods alike and in the same order. Process 0 writes checkpoints, logs and results.
    """

    rank: int
    """Which process this is, 0 .. size - 1."""
    size: int
    """How many processes there are."""

    def slice(self, count: int) -> range:
        """The rows of a batch of `count` that this process works on: neighbours, about as many for each process."""

    def wrap(self, module: nn.Module) -> None:
        """Makes a network ready for these processes in place, e.g. shards it; its parameters are collected after it."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes of a tensor that each has; what is sharded (a DTensor) is one already."""

    def all_true(self, value: bool) -> bool:
        """Whether it is true in every process."""

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of a whole batch, in order, from those of each process's slice."""


class OneProcess:
    """A `Parallel` that shares with nobody."""

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
