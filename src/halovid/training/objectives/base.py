"""The contract of an objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from halovid.maths.losses import Margins, PairErrors


@dataclass(frozen=True)
class Needs:
    """What an objective asks for besides the policy's prediction for the chosen clip; what it leaves out is not made.

    rejected: the rejected clip, and the predictions for it.
    reference: the predictions of the model as it was before training.
    """

    rejected: bool = False
    reference: bool = False


class Objective(Protocol):
    """What a training makes small: a pure function of the errors of the policy, and of the reference, on pairs.

    It is built from its section of the recipe, one of `config.objectives`.
    """

    needs: Needs

    def loss(self, errors: PairErrors, margins: Margins, timestep_weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each pair, [B], and what to log of it: name -> [B], NaN for pairs of which there is nothing.

        Args:
            timestep_weight: [B], w(level): the weight of each pair's preferences at its noise level.
        """
