"""DiffusionNFT (arXiv 2509.16117) between the clips of a pair, patch by patch."""

from __future__ import annotations

from torch import Tensor

from halovid.config.objectives import NftOptions
from halovid.maths.losses import Margins, PairErrors, displacement, nft_term, patch_weights
from halovid.training.objectives.base import Needs, Stateless


class Nft(Stateless):
    """loss = the reward-weighted forward process, see `maths.losses.nft_term`."""

    needs = Needs(rejected=True, reference=True)

    def __init__(self, options: NftOptions) -> None:
        self._options = options

    def loss(self, errors: PairErrors, margins: Margins, timestep_weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective.loss`."""
        loss = nft_term(errors, margins.patches, self._options.beta, self._options.certain_margin)
        weights = patch_weights(margins.patches, power=1.0, tie=0.0)  # only for the metrics
        return loss, {"loss/nft": loss} | displacement(errors, margins.patches, weights)
