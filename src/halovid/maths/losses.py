"""Losses on the error maps of a diffusion model, of which `training.objectives` are made. Pure functions of tensors.

Shapes: B pairs; error maps [B, T, h, w] over latent cells, already averaged over channels; patches [B, t, h, w]
of a `PatchGrid`; a term is [B]. Sources: HALO (arXiv 2502.06812) for the patch term, Diffusion-DPO (arXiv 2311.12908)
for the clip term, DiffusionNFT (arXiv 2509.16117). docs/method.md has the equations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from halovid.maths.grid import PatchGrid, pool_cells


@dataclass(frozen=True)
class PairErrors:
    """Squared error maps of the predictions for each pair, [B, T, h, w], mean over channels.

    A map that the objective does not need is NaN: no prediction was made for it, and what is computed from it is not
    logged.

    chosen, rejected: of the policy.  ref_*: of the reference.
    drift_*: squared distance of the policy's prediction from that of the reference.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    drift_chosen: Tensor
    drift_rejected: Tensor

    @property
    def gap_chosen(self) -> Tensor:
        """The policy's error minus the reference's in the chosen clip."""
        return self.chosen - self.ref_chosen

    @property
    def gap_rejected(self) -> Tensor:
        """The policy's error minus the reference's in the rejected clip."""
        return self.rejected - self.ref_rejected


@dataclass(frozen=True)
class Margins:
    """Reward of the chosen clip minus that of the rejected one: clip [B] (>= 0), patches [B, t, h, w] (any sign)."""

    clip: Tensor
    patches: Tensor

    @property
    def grid(self) -> PatchGrid:
        """The patches that are compared."""
        return PatchGrid(*self.patches.shape[1:])


def squared_error_map(model_pred: Tensor, target: Tensor) -> Tensor:
    """Squared error of each latent cell, mean over channels: [B, C, T, h, w] -> [B, T, h, w], in float32."""
    return (model_pred.float() - target.float()).square().mean(1)


def clip_term(logits: Tensor, margin: Tensor, power: float) -> Tensor:
    """margin ** power * -log sigmoid(z) of each pair's whole clips, [B]."""
    return margin.clamp(min=0) ** power * -F.logsigmoid(logits)


def mean_of_differing(cells: Tensor, margins: Tensor, tie: float) -> Tensor:
    """The mean of a map [B, T, h, w] over the patches that do not tie, [B]; 0 for a pair whose patches all tie.

    One binary mask for both clips of a pair, as SimpleTuner's masked DPO has it.
    """
    differing = margins.abs() > tie
    patches = pool_cells(cells, PatchGrid(*margins.shape[1:])) * differing
    return patches.sum((1, 2, 3)) / differing.sum((1, 2, 3)).clamp(min=1)


def patch_weights(margins: Tensor, power: float, tie: float) -> Tensor:
    """The weight a_i of each patch: |margin| ** power, 0 for a tie, summing to 1 over the pair: [B, t, h, w].

    A pair whose patches all tie has weight 0 everywhere.

    Args:
        tie: margins up to this size express no preference.
    """
    size = margins.abs()
    relative = size / size.amax((1, 2, 3), keepdim=True).clamp(
        min=torch.finfo(size.dtype).tiny
    )  # relative, so that a power of small margins does not underflow to 0
    raw = torch.where(size > tie, relative**power, torch.zeros_like(size))
    return raw / raw.sum((1, 2, 3), keepdim=True).clamp(min=torch.finfo(raw.dtype).tiny)


def patch_term(logits: Tensor, margins: Tensor, weights: Tensor) -> Tensor:
    """sum_i a_i * -log sigmoid(s_i z_i) of each pair, [B]; s_i is the sign of the patch margin.

    A patch may prefer the clip that lost overall.
    """
    return (weights * -F.logsigmoid(margins.sign() * logits)).sum((1, 2, 3))


def anchor_term(errors: PairErrors, margins: Tensor, weights: Tensor) -> Tensor:
    """The plain denoising loss on the winning patches of both clips, [B].

    It works against likelihood displacement: without it a preference can also be met by letting both errors grow, that
    of the loser faster. Not in the paper.
    """
    return (weights * _of_winner(errors.chosen, errors.rejected, margins)).sum((1, 2, 3))


def sft_term(errors: PairErrors) -> Tensor:
    """The plain denoising loss of the chosen clip, [B]."""
    return errors.chosen.mean((1, 2, 3))


def drift_term(errors: PairErrors, margins: Tensor, tie: float) -> Tensor:
    """The squared distance of policy and reference on the patches that tie, as a mean over all patches, [B].

    It confines what the pair teaches to the patches that differ. Not in the paper.

    Args:
        tie: margins up to this size express no preference.
    """
    drift = 0.5 * pool_cells(errors.drift_chosen + errors.drift_rejected, PatchGrid(*margins.shape[1:]))
    return (drift * (margins.abs() <= tie)).mean((1, 2, 3))


def nft_term(errors: PairErrors, margins: Tensor, beta: float, certain_margin: float) -> Tensor:
    """The reward-weighted forward process of each pair, patch by patch, [B], up to a constant.

    DiffusionNFT (arXiv 2509.16117) imagines two models on the line through reference and policy, `beta` of the
    policy's way ahead of the reference and as far behind it, and makes the one ahead denoise what is good (share r of
    it) and the one behind what is bad (1 - r):

        1/b * (r |v_ref + b (v - v_ref) - target|^2 + (1 - r) |v_ref - b (v - v_ref) - target|^2)
            = (2 r - 1) (e - e_ref - |v - v_ref|^2) + b |v - v_ref|^2 + constant

    Departures: r comes from the margin of the pair, 2 r - 1 = clip(margin / certain_margin, -1, 1) for the chosen clip
    and its opposite for the rejected one; the reference does not follow the policy. A 1 x 1 x 1 grid makes it a clip
    loss.
    """
    grid = PatchGrid(*margins.shape[1:])
    sign = (margins / certain_margin).clamp(-1, 1)
    gain_chosen = pool_cells(errors.gap_chosen - errors.drift_chosen, grid)
    gain_rejected = pool_cells(errors.gap_rejected - errors.drift_rejected, grid)
    drift = pool_cells(errors.drift_chosen + errors.drift_rejected, grid)
    return (sign * (gain_chosen - gain_rejected) + beta * drift).mean((1, 2, 3))


def patch_accuracy(logits: Tensor, margins: Tensor, weights: Tensor) -> Tensor:
    """The share of the patches, by weight, on whose winner policy and rewards agree, [B] in 0..1.

    NaN for a pair whose patches all tie.
    """
    agree = 0.5 + 0.5 * (margins * logits).sign()
    return _unless_tied((weights * agree).sum((1, 2, 3)), weights)


def weighted_size(values: Tensor, weights: Tensor) -> Tensor:
    """The mean absolute value over the patches, by weight, [B]; NaN for a pair whose patches all tie."""
    return _unless_tied((weights * values.abs()).sum((1, 2, 3)), weights)


def displacement(errors: PairErrors, margins: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """How far training has moved the policy's errors from the reference's, to be logged: name -> [B].

    NaN where no prediction was made, and for the winning patches of a pair whose patches all tie.
    """
    winning = (weights * _of_winner(errors.gap_chosen, errors.gap_rejected, margins)).sum((1, 2, 3))
    return {
        "errors/chosen": errors.gap_chosen.mean((1, 2, 3)),
        "errors/rejected": errors.gap_rejected.mean((1, 2, 3)),
        "errors/winning_patches": _unless_tied(winning, weights),
        "errors/drift": 0.5 * (errors.drift_chosen + errors.drift_rejected).mean((1, 2, 3)),
    }


def _unless_tied(values: Tensor, weights: Tensor) -> Tensor:
    """The values [B] of pairs in which any patch has a weight; NaN for the others, whose patches all tie."""
    return torch.where((weights > 0).any(-1).any(-1).any(-1), values, torch.nan)


def _of_winner(chosen: Tensor, rejected: Tensor, margins: Tensor) -> Tensor:
    """Means of each patch, [B, t, h, w], over one of two maps [B, T, h, w]: that of the clip that won the patch."""
    grid = PatchGrid(*margins.shape[1:])
    return torch.where(margins > 0, pool_cells(chosen, grid), pool_cells(rejected, grid))
