"""The protocol that every training objective follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from halovid.maths.losses import Margins, PairErrors


@dataclass(frozen=True)
class Needs:
    """What an objective reads besides the policy's error on the chosen clip; nothing else is computed.

    rejected: the errors on the rejected clip.
    reference: the errors of the reference, the model as it was before training, and the drift from it.
    """

    rejected: bool = False
    reference: bool = False


class Objective(Protocol):
    """What a training minimises: a pure function of the errors of policy and reference on pairs.

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
