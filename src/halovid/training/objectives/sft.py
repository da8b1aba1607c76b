"""Supervised fine-tuning: plain denoising of the chosen clips."""

from __future__ import annotations

from torch import Tensor

from halovid.config.objectives import SftOptions
from halovid.maths.losses import Margins, PairErrors, sft_term
from halovid.training.objectives.base import Needs, Stateless


class Sft(Stateless):
    """loss = the mean squared error on the chosen clip; it needs neither the rejected clip nor a reference."""

    needs = Needs()

    def __init__(self, options: SftOptions) -> None:
        """`options` has nothing to set."""

    def loss(self, errors: PairErrors, margins: Margins, timestep_weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective.loss`."""
        loss = sft_term(errors)
        return loss, {"loss/sft": loss}
