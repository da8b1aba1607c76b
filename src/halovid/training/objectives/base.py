"""The protocols that training objectives follow: on pairs of clips, or on groups of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from halovid.config.objectives import Credit
from halovid.maths.group_losses import GroupErrors
from halovid.maths.losses import Margins, PairErrors


@dataclass(frozen=True)
class Needs:
    """What an objective reads besides the policy's error on the chosen clip; nothing else is computed.

    rejected: the errors on the rejected clip.
    reference: the errors of the reference, the model as it was before training, and the drift from it.
    """

    rejected: bool = False
    reference: bool = False


class Stateless:
    """What an objective has that follows no training: nothing to observe, and nothing to keep."""

    def observe(self, metrics: dict[str, float]) -> None:
        """Does nothing."""

    def state_dict(self) -> dict[str, float | None]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Does nothing."""


class Stateful(Protocol):
    """An objective may follow the training, between its steps."""

    def observe(self, metrics: dict[str, float]) -> None:
        """Takes note of a step: the means of its metrics over the whole batch, equal in all processes."""

    def state_dict(self) -> dict[str, float | None]:
        """What a checkpoint must hold of it."""

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Restores what `state_dict` returned."""


class Objective(Stateful, Protocol):
    """What a training minimises: a function of the errors of policy and reference on pairs, pure within a step.

    It is built from its options, one of `config.objectives`.
    """

    needs: Needs

    def loss(self, errors: PairErrors, margins: Margins, timestep_weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each pair, [B], and the metrics to log: name -> [B], NaN for a pair without a value.

        Args:
            errors: maps [B, T, h, w]; those that `needs` does not ask for are NaN.
            margins: by how much the chosen clip is better, as a whole and patch by patch.
            timestep_weight: [B], w(level), a factor of the preference logits at each pair's noise level.
        """


@dataclass(frozen=True)
class GroupNeeds:
    """What a group objective reads besides the policy's errors; nothing else is computed.

    behaviour: the errors of the model as it was when it made the clips, and how far the policy has moved since.
    reference: the errors of the model before training, and the drift from it.
    random_steps: errors are those of the sampler's random steps, instead of those of denoising the clips.
    extremes: of each group only the clips with the highest and the lowest reward, in this order.
    """

    behaviour: bool = False
    reference: bool = False
    random_steps: bool = False
    extremes: bool = False


class GroupObjective(Stateful, Protocol):
    """What a training on rollouts minimises: a function of error maps and rewards of groups, pure within a step."""

    needs: GroupNeeds

    def loss(self, errors: GroupErrors, rewards: GroupRewards, timestep_weight: Tensor) -> GroupLoss:
        """The loss of each group, [B], and the metrics to log: name -> [B], NaN for a group without a value.

        Args:
            errors: maps [B, N, T, h, w]; those that `needs` does not ask for are NaN.
            timestep_weight: [B], w(level), a factor of preference logits at each group's noise level.
        """


@dataclass(frozen=True)
class GroupRewards:
    """Rewards of the clips of B groups, [B, N], and of their patches, [B, N, t, h, w]; NaN for refused clips."""

    clip: Tensor
    patches: Tensor

    def of_regions(self, credit: Credit) -> Tensor:
        """The rewards that are compared, [B, N, t, h, w]: those of the patches, or of the clip as a single region."""
        return self.patches if credit == "patches" else self.clip[:, :, None, None, None]


GroupLoss = tuple[Tensor, dict[str, Tensor]]
