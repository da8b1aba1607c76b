"""Gran-DPO (HALO, arXiv 2502.06812), and Diffusion-DPO as the case without patches."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from halovid.config.objectives import GranDPOOptions
from halovid.maths.grid import pool_cells
from halovid.maths.losses import (
    Margins,
    PairErrors,
    anchor_term,
    clip_term,
    displacement,
    drift_term,
    mean_of_differing,
    patch_accuracy,
    patch_term,
    patch_weights,
    sft_term,
    weighted_size,
)
from halovid.training.objectives.adaptive_beta import AdaptiveBeta
from halovid.training.objectives.base import Needs


class GranDPO:
    """loss = sum of lambda_term * term over clip, patch, anchor, sft and drift; a term of weight 0 is not computed."""

    def __init__(self, options: GranDPOOptions) -> None:
        self._options = options
        compares = options.lambda_clip > 0 or options.lambda_patch > 0
        drifts = options.lambda_drift > 0
        self.needs = Needs(rejected=compares or drifts or options.lambda_anchor > 0, reference=compares or drifts)
        self._betas = {
            "clip": AdaptiveBeta(options.beta_clip, options.target_accuracy),
            "patch": AdaptiveBeta(options.beta_patch, options.target_accuracy),
        }

    def loss(self, errors: PairErrors, margins: Margins, timestep_weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective.loss`."""
        options = self._options
        if options.patch_signs == "clip":  # a scalar margin times a saliency map, as ViPO (arXiv 2511.18719)
            margins = Margins(margins.clip, margins.patches.abs())
        gap = errors.gap_chosen - errors.gap_rejected
        weights = patch_weights(margins.patches, options.margin_power_patch, options.tie)
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        if options.lambda_clip:
            clip_gap = gap.mean((1, 2, 3))
            if options.clip_region == "differing":
                clip_gap = mean_of_differing(gap, margins.patches, options.tie)
            gaps = timestep_weight * clip_gap
            logits = -self._betas["clip"].value * gaps
            terms["clip"] = clip_term(logits, margins.clip, options.margin_power_clip)
            metrics |= {"rewards/margins": logits, "rewards/accuracies": 0.5 + 0.5 * logits.sign()}
            metrics["gaps/clip"] = gaps.abs()
        if options.lambda_patch:
            gaps = timestep_weight[:, None, None, None] * pool_cells(gap, margins.grid)
            logits = -self._betas["patch"].value * gaps
            terms["patch"] = patch_term(logits, margins.patches, weights)
            metrics["rewards/patch_accuracies"] = patch_accuracy(logits, margins.patches, weights)
            metrics["gaps/patch"] = weighted_size(gaps, weights)
        if options.lambda_anchor:
            terms["anchor"] = anchor_term(errors, margins.patches, weights)
        if options.lambda_sft:
            terms["sft"] = sft_term(errors)
        if options.lambda_drift:
            terms["drift"] = drift_term(errors, margins.patches, options.tie)
        loss = reduce(torch.add, (getattr(options, f"lambda_{name}") * term for name, term in terms.items()))
        metrics |= {f"loss/{name}": term for name, term in terms.items()}
        return loss, metrics | displacement(errors, margins.patches, weights)

    def observe(self, metrics: dict[str, float]) -> None:
        """See `Objective.observe`: both betas follow the gaps, if there is a target."""
        for name, beta in self._betas.items():
            if f"gaps/{name}" in metrics:
                beta.observe(metrics[f"gaps/{name}"])

    def state_dict(self) -> dict[str, float | None]:
        """See `Objective.state_dict`."""
        return {name: beta.mean_gap for name, beta in self._betas.items()}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """See `Objective.load_state_dict`."""
        for name, beta in self._betas.items():
            beta.mean_gap = state_dict[name]
