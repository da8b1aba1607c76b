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

from halovid.maths.grid import PatchGrid, pool_cells


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class GranDPOOptions:
    """The dials of Gran-DPO.

    beta_*: strength of the pull towards the reference, against *mean* squared errors and without a factor 1/2
        (a Diffusion-DPO beta of b is b / 2 here). A patch mean is noisier than a clip mean, so each has its own.
    lambda_*: weight of the clip term, the patch term, the anchor, plain denoising of the chosen clip (sft), and the
        reward-weighted forward process (nft).
    margin_power_*: weights grow with |margin| ** power; 0 counts every preference alike.
    tie: patch margins up to this size express no preference.
    nft_step: how far the nft term's two imagined models lie from the reference, as a share of the policy's way.
    nft_margin: patch margin from which a patch counts as certainly better.
    """

    lambda_video: float = Field(default=1.0, ge=0)
    lambda_patch: float = Field(default=1.0, ge=0)
    lambda_anchor: float = Field(default=4.0, ge=0)
    beta_video: float = Field(default=20.0, gt=0)
    beta_patch: float = Field(default=5.0, gt=0)
    margin_power_video: float = Field(default=0.0, ge=0)
    margin_power_patch: float = Field(default=1.0, ge=0)
    tie: float = Field(default=0.0, ge=0)
    lambda_sft: float = Field(default=0.0, ge=0)
    lambda_nft: float = Field(default=0.0, ge=0)
    nft_step: float = Field(default=0.1, gt=0)
    nft_margin: float = Field(default=1.0, gt=0)


@dataclass(frozen=True)
class PairErrors:
    """Squared error maps of the four predictions of each pair, [B, T, h, w], mean over channels.

    drift_*: squared distance of the policy's prediction from the reference's.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    drift_chosen: Tensor
    drift_rejected: Tensor


@dataclass(frozen=True)
class Margins:
    """Reward of the chosen clip minus that of the rejected one: clip [B] (>= 0), patches [B, t, h, w] (any sign).

    weight: [B], how much each pair counts.
    """

    clip: Tensor
    patches: Tensor
    weight: Tensor


def squared_error_map(model_pred: Tensor, target: Tensor) -> Tensor:
    """Squared error of each latent cell, mean over channels: [B, C, T, h, w] -> [B, T, h, w], in float32."""
    return (model_pred.float() - target.float()).square().mean(1)


def gran_dpo_loss(
    errors: PairErrors, margins: Margins, timestep_weight: Tensor, options: GranDPOOptions
) -> tuple[Tensor, dict[str, Tensor]]:
    """The Gran-DPO loss of each pair, [B], and what to log of it, each [B].

    loss = weight * sum of lambda_term * term over video, patch, anchor, sft and nft

    Args:
        timestep_weight: [B], w(timestep): the weight of each pair's logits.
    """
    grid = PatchGrid(*margins.patches.shape[1:])
    # how much more the policy errs than the reference, in each clip of the pair
    gap_chosen, gap_rejected = errors.chosen - errors.ref_chosen, errors.rejected - errors.ref_rejected
    gap = gap_chosen - gap_rejected
    video_logits = -options.beta_video * timestep_weight * gap.mean((1, 2, 3))
    patch_logits = -options.beta_patch * timestep_weight[:, None, None, None] * pool_cells(gap, grid)
    weights = patch_weights(margins.patches, options)

    terms = {
        "video": video_term(video_logits, margins.clip, options),
        "patch": patch_term(patch_logits, margins.patches, weights),
        "anchor": anchor_term(errors, margins.patches, weights, grid),
        "sft": errors.chosen.mean((1, 2, 3)),
        "nft": nft_term(errors, margins.patches, grid, options),
    }
    loss = margins.weight * sum(getattr(options, f"lambda_{name}") * term for name, term in terms.items())
    agree = 0.5 + 0.5 * (margins.patches * patch_logits).sign()
    metrics = {f"loss/{name}": term.detach() for name, term in terms.items()} | {
        "rewards/margins": video_logits.detach(),
        "rewards/accuracies": 0.5 + 0.5 * video_logits.detach().sign(),
        "rewards/patch_accuracies": (weights * agree).sum((1, 2, 3)).detach(),
        "errors/chosen": gap_chosen.mean((1, 2, 3)).detach(),
        "errors/rejected": gap_rejected.mean((1, 2, 3)).detach(),
        "errors/winning_patches": (weights * _of_winner(gap_chosen, gap_rejected, margins.patches, grid))
        .sum((1, 2, 3))
        .detach(),
        "errors/drift": 0.5 * (errors.drift_chosen + errors.drift_rejected).mean((1, 2, 3)).detach(),
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
    return (weights * _of_winner(errors.chosen, errors.rejected, margins, grid)).sum((1, 2, 3))


def nft_term(errors: PairErrors, margins: Tensor, grid: PatchGrid, options: GranDPOOptions) -> Tensor:
    """The reward-weighted forward process of each pair, patch by patch, [B], up to a constant.

    DiffusionNFT (arXiv 2509.16117) imagines two models on the line through reference and policy, b = `nft_step` of the
    policy's way ahead of the reference and as far behind it, and makes the one ahead denoise what is good (share r of
    it) and the one behind what is bad (1 - r):

        1/b * (r |v_ref + b (v - v_ref) - target|^2 + (1 - r) |v_ref - b (v - v_ref) - target|^2)
            = (2 r - 1) (e - e_ref - |v - v_ref|^2) + b |v - v_ref|^2 + constant

    Departures: r comes from the margin of the pair, 2 r - 1 = clip(margin / nft_margin, -1, 1) for the chosen clip and
    its opposite for the rejected one; the reference does not follow the policy. A 1 x 1 x 1 grid makes it a clip loss.
    """
    sign = (margins / options.nft_margin).clamp(-1, 1)
    gain_chosen = pool_cells(errors.chosen - errors.ref_chosen - errors.drift_chosen, grid)
    gain_rejected = pool_cells(errors.rejected - errors.ref_rejected - errors.drift_rejected, grid)
    drift = pool_cells(errors.drift_chosen + errors.drift_rejected, grid)
    return (sign * (gain_chosen - gain_rejected) + options.nft_step * drift).mean((1, 2, 3))


def _of_winner(chosen: Tensor, rejected: Tensor, margins: Tensor, grid: PatchGrid) -> Tensor:
    """The mean of each patch in the clip that won it, of two maps [B, T, h, w]: [B, t, h, w]."""
    return torch.where(margins > 0, pool_cells(chosen, grid), pool_cells(rejected, grid))
