"""Losses on groups: several clips of one prompt, compared by their rewards region by region. Pure functions of tensors.

Shapes: B prompts with N clips each; error maps [B, N, T, h, w] over latent cells; rewards and regions [B, N, t, h, w]
of a `PatchGrid`, whose single region of a 1 x 1 x 1 grid is the whole clip; a term is [B]. A reward that is NaN, of a
clip that was refused, takes no part. Sources: DiffusionNFT (arXiv 2509.16117), Flow-GRPO (arXiv 2505.05470), AWM, and
Plackett-Luce as in ListMLE. None of them compares regions; docs/method.md has the equations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halovid.maths.grid import PatchGrid, pool_cells
from halovid.maths.losses import patch_weights


@dataclass(frozen=True)
class GroupErrors:
    """Squared error maps of the predictions for each clip of each group, [B, N, T, h, w], mean over channels.

    A map that the objective does not need is NaN.

    policy: of the model in training.  behaviour: of the model as it was when it made the clips.
    reference: of the model before training.
    moved: squared distance of the policy's prediction from the behaviour's.  drift: from the reference's.
    """

    policy: Tensor
    behaviour: Tensor
    reference: Tensor
    moved: Tensor
    drift: Tensor


def advantages(rewards: Tensor, floor: float, most: float) -> Tensor:
    """By how much each clip is better than its group, region by region, [B, N, ...] in -1..1.

    A = clip((r - mean) / (std + floor), -most, most) / most, with mean and deviation over the group.

    Args:
        rewards: [B, N, ...]; a reward that is NaN gets the advantage 0.
        floor: spread of rewards that is noise: where a group differs by less, its advantages are small.
        most: deviations from which on an advantage counts in full.
    """
    difference = rewards - rewards.nanmean(1, keepdim=True)
    relative = difference / (_deviation(rewards) + floor).clamp(min=torch.finfo(rewards.dtype).tiny)
    return (relative.clamp(-most, most) / most).nan_to_num(nan=0.0)


def nft_group_term(errors: GroupErrors, advantage: Tensor, beta: float) -> Tensor:
    """DiffusionNFT with an advantage for each region, [B], up to a constant.

    The two imagined models of `losses.nft_term` lie around the behaviour, and the share of good is (1 + A) / 2. Where A
    is 0 what remains is the distance from the behaviour: a region that tells nothing is held.
    """
    grid = _grid_of(advantage)
    gain = pool_cells(errors.policy - errors.behaviour - errors.moved, grid)
    return (advantage * gain + beta * pool_cells(errors.moved, grid)).mean((1, 2, 3, 4))


def policy_gradient_term(errors: GroupErrors, advantage: Tensor, scale: float, reach: float) -> Tensor:
    """The clipped policy gradient with an advantage for each region, [B].

    rho = exp(scale * (e_behaviour - e_policy)) of each region; max(-A rho, -A clip(rho, 1 - reach, 1 + reach)), as in
    PPO. With errors of denoising this is AWM; with errors of the sampler's own random steps, whose exponentials are
    ratios of probabilities, it is Flow-GRPO.

    Args:
        reach: how far the ratio may leave 1 before it earns nothing more.
    """
    grid = _grid_of(advantage)
    ratio = torch.exp(scale * pool_cells(errors.behaviour - errors.policy, grid))
    clipped = ratio.clamp(1 - reach, 1 + reach)
    return torch.maximum(-advantage * ratio, -advantage * clipped).mean((1, 2, 3, 4))


def ranking_weights(rewards: Tensor, tie: float) -> Tensor:
    """The weight of each region's ranking, [B, t, h, w]: how much the group differs there, summing to 1 over regions.

    Args:
        tie: regions whose rewards have a standard deviation up to this weigh nothing.
    """
    return patch_weights(_deviation(rewards)[:, 0].nan_to_num(nan=0.0), power=1.0, tie=tie)


def plackett_luce_term(logits: Tensor, rewards: Tensor, weights: Tensor) -> Tensor:
    """The negative log-likelihood of each region's order of the clips by reward, divided by N - 1 and weighed, [B].

    P(order) = prod_k exp(z_k) / sum_{j not before k} exp(z_j), the Plackett-Luce model; for N = 2 that is a preference.

    Args:
        logits: z, [B, N, t, h, w].
        weights: [B, t, h, w].
    """
    worst_last = rewards.nan_to_num(nan=-torch.inf).argsort(dim=1, descending=True, stable=True)
    ordered = logits.gather(1, worst_last)
    unknown = rewards.isnan().gather(1, worst_last)
    ordered = ordered.masked_fill(unknown, -1e4)  # refused clips come last, and nothing is learned of them
    from_here_on = ordered.flip(1).logcumsumexp(1).flip(1)
    surprise = (from_here_on - ordered).masked_fill(unknown, 0).sum(1) / max(logits.shape[1] - 1, 1)
    return (weights * surprise).sum((1, 2, 3))


def best_of_group_term(errors: GroupErrors, rewards: Tensor, weights: Tensor) -> Tensor:
    """The plain denoising loss of each region in the clip that is best there, [B]: the anchor of a group."""
    best = rewards.nan_to_num(nan=-torch.inf).argmax(1, keepdim=True)
    error = pool_cells(errors.policy, _grid_of(rewards)).gather(1, best)[:, 0]
    return (weights * error).sum((1, 2, 3))


def group_drift_term(errors: GroupErrors) -> Tensor:
    """The mean squared distance of policy and reference, [B]."""
    return errors.drift.mean((1, 2, 3, 4))


def _deviation(rewards: Tensor) -> Tensor:
    """The standard deviation within each group, [B, 1, ...]."""
    return (rewards - rewards.nanmean(1, keepdim=True)).square().nanmean(1, keepdim=True).sqrt()


def _grid_of(regions: Tensor) -> PatchGrid:
    return PatchGrid(*regions.shape[2:])
