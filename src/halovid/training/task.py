"""What a training learns from and makes small: the protocol between the training loop and pairs or rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from torch import Tensor

from halovid.config.align import AlignConfig
from halovid.training.batches import draw_noise
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


class ClipItems(Batch, Protocol):
    """Pairs or groups of clips."""

    @property
    def latents(self) -> Tensor:
        """[B, N, C, T, h, w]."""


Items = TypeVar("Items", bound=ClipItems)


@dataclass(frozen=True)
class NoisyBatch(Generic[Items]):
    """B pairs or groups with the noise of their clips, [B, N, C, T, h, w], and the noise level of each, [B]."""

    items: Items
    noise: Tensor
    level: Tensor

    @classmethod
    def draw(
        cls, items: Items, clips: int, count: int, rows: range, options: AlignConfig, step: int, seed: int
    ) -> NoisyBatch[Items]:
        """The items of this process, with noise and levels drawn for the whole batch.

        Args:
            clips: for how many clips of an item noise is drawn, N at least.
            count: items in the whole batch.
            rows: which of these the process has.
        """
        shape = items.latents.shape[2:]
        drawn = draw_noise((count, clips), shape, options.shared_noise, options.sigma, step, seed)
        return cls(items, *(whole_batch[rows.start : rows.stop].to(items.latents) for whole_batch in drawn))

    def __len__(self) -> int:
        return len(self.items)

    def rows(self, indices: Tensor) -> NoisyBatch[Items]:
        """The items of these indices, [n]."""
        return NoisyBatch(cast(Items, self.items.rows(indices)), self.noise[indices], self.level[indices])

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return self.items.tensors() | {"noise": self.noise, "level": self.level}


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
