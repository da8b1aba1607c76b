"""What a training learns from and makes small: the protocol between the training loop and pairs or rollouts."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from halovid.training.objectives.base import Stateful
from halovid.training.parallel import Parallel


class Batch(Protocol):
    """What one optimizer step learns from: items that can be taken apart, to save memory, and written to a file."""

    def __len__(self) -> int:
        """The number of items."""

    def rows(self, indices: Tensor) -> Batch:
        """The items of these indices, [n]."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, with a row for each item."""


class TrainingTask(Protocol):
    """Gives every step its batch, and says how good the policy does on it."""

    @property
    def steps_between_checkpoints(self) -> int:
        """After every so many steps a checkpoint may be saved: steps in between share what no checkpoint holds."""

    def batch(self, step: int, parallel: Parallel) -> Batch:
        """The items of this process in a step: a function of the seed, the step and the policy, however often asked."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each item, [B], and the metrics to log: name -> [B], NaN for an item without a value."""

    @property
    def objective(self) -> Stateful:
        """What is told of every step, and is kept in checkpoints."""

    def cost(self, steps: int) -> dict[str, float]:
        """What a training of so many steps has cost: metric name -> number, to compare trainings by their budgets."""
