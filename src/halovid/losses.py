"""Gran-DPO: preference losses on the error maps of a diffusion model. Pure functions of tensors.

Shapes: B pairs; error maps [B, T, h, w] over latent cells, already averaged over channels; patches [B, t, h, w]
of a `PatchGrid`. Source: HALO (arXiv 2502.06812) for the granular loss; Diffusion-DPO (arXiv 2311.12908) for the
clip term. docs/method.md has the equations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass
from torch import Tensor

from halovid.grid import PatchGrid, pool_cells


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class GranDPOOptions:
    """The dials of Gran-DPO.

    beta_*: strength of the pull towards the reference, against *mean* squared errors and without a factor 1/2
        (a Diffusion-DPO beta of b is b / 2 here). A patch mean is noisier than a clip mean, so each has its own.
    lambda_*: weight of the clip term, the patch term and the anchor.
    margin_power_*: weights grow with |margin| ** power; 0 counts every preference alike.
    tie: patch margins up to this size express no preference.
    """

    lambda_video: float = Field(default=0.5, ge=0)
    lambda_patch: float = Field(default=1.0, ge=0)
    lambda_anchor: float = Field(default=2.0, ge=0)
    beta_video: float = Field(default=50.0, gt=0)
    beta_patch: float = Field(default=50.0, gt=0)
    margin_power_video: float = Field(default=0.0, ge=0)
    margin_power_patch: float = Field(default=1.0, ge=0)
    tie: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class PairErrors:
    """Squared error maps of the four predictions of each pair, [B, T, h, w], mean over channels."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor


@dataclass(frozen=True)
class Margins:
    """Reward of the chosen clip minus that of the rejected one: clip [B] (>= 0), patches [B, t, h, w] (any sign)."""

    clip: Tensor
    patches: Tensor


def squared_error_map(model_pred: Tensor, target: Tensor) -> Tensor:
    """Squared error of each latent cell, mean over channels: [B, C, T, h, w] -> [B, T, h, w], in float32."""
    return (model_pred.float() - target.float()).square().mean(1)


def gran_dpo_loss(
    errors: PairErrors, margins: Margins, timestep_weight: Tensor, options: GranDPOOptions
) -> tuple[Tensor, dict[str, Tensor]]:
    """The Gran-DPO loss of each pair, [B], and what to log of it, each [B].

    loss = lambda_video * video term + lambda_patch * patch term + lambda_anchor * anchor

    Args:
        timestep_weight: [B], w(timestep): the weight of each pair's logits.
    """
    grid = PatchGrid(*margins.patches.shape[1:])
    # how much more the policy errs than the reference, in each clip of the pair
    gap = (errors.chosen - errors.ref_chosen) - (errors.rejected - errors.ref_rejected)
    video_logits = -options.beta_video * timestep_weight * gap.mean((1, 2, 3))
    patch_logits = -options.beta_patch * timestep_weight[:, None, None, None] * pool_cells(gap, grid)
    weights = patch_weights(margins.patches, options)

    terms = {
        "video": video_term(video_logits, margins.clip, options),
        "patch": patch_term(patch_logits, margins.patches, weights),
        "anchor": anchor_term(errors, margins.patches, weights, grid),
    }
    loss = (
        options.lambda_video * terms["video"]
        + options.lambda_patch * terms["patch"]
        + options.lambda_anchor * terms["anchor"]
    )
    agree = 0.5 + 0.5 * (margins.patches * patch_logits).sign()
    metrics = {f"loss/{name}": term.detach() for name, term in terms.items()} | {
        "rewards/margins": video_logits.detach(),
        "rewards/accuracies": 0.5 + 0.5 * video_logits.detach().sign(),
        "rewards/patch_accuracies": (weights * agree).sum((1, 2, 3)).detach(),
        "errors/chosen": (errors.chosen - errors.ref_chosen).mean((1, 2, 3)).detach(),
        "errors/rejected": (errors.rejected - errors.ref_rejected).mean((1, 2, 3)).detach(),
    }
    return loss, metrics


def video_term(logits: Tensor, margin: Tensor, options: GranDPOOptions) -> Tensor:
    """g(margin) * -log sigmoid(z) of each pair's whole clips, [B]; g = margin ** power."""
    return margin.clamp(min=0) ** options.margin_power_video * -F.logsigmoid(logits)


def patch_weights(margins: Tensor, options: GranDPOOptions) -> Tensor:
    """The weight a_i of each patch: |margin| ** power, 0 for a tie, summing to 1 over the pair: [B, t, h, w].

    A pair whose patches all tie has weight 0 everywhere.
    """
    size = margins.abs()
    relative = size / size.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)  # powers can't vanish
    raw = torch.where(size > options.tie, relative**options.margin_power_patch, torch.zeros_like(size))
    return raw / raw.sum((1, 2, 3), keepdim=True).clamp(min=torch.finfo(raw.dtype).tiny)


def patch_term(logits: Tensor, margins: Tensor, weights: Tensor) -> Tensor:
    """sum_i a_i * -log sigmoid(s_i z_i) of each pair, [B]; s_i is the sign of the patch margin.

    A patch may prefer the clip that lost overall.
    """
    return (weights * -F.logsigmoid(margins.sign() * logits)).sum((1, 2, 3))


def anchor_term(errors: PairErrors, margins: Tensor, weights: Tensor, grid: PatchGrid) -> Tensor:
    """The plain denoising loss on the winning patches of both clips, [B].

    Against likelihood displacement: a preference can also be met by making both errors grow, the loser's faster.
    Not in the paper.
    """
    winner = torch.where(margins > 0, pool_cells(errors.chosen, grid), pool_cells(errors.rejected, grid))
    return (weights * winner).sum((1, 2, 3))
