"""The errors of policy and reference on a batch of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from halovid.maths.losses import PairErrors, squared_error_map
from halovid.training.pairs import PairBatch
from halovid.training.policy import Policy


def pair_errors(policy: Policy, batch: PairBatch, noise: Tensor, level: Tensor, with_reference: bool) -> PairErrors:
    """The error maps of B pairs, [B, T, h, w] each; NaN for a rejected clip that the batch lacks.

    Both clips of a pair have the same noise level, and all clips go through the network as one batch.

    Args:
        noise: [B, 2, C, T, h, w], for the chosen and the rejected clip.
        level: [B] in 0..1.
        with_reference: also predict with the reference; without, its errors and the drift from it are NaN.
    """
    model, clips_per_pair = policy.model, batch.latents.shape[1]
    # [B, clips per pair, ...] -> [clips per pair * B, ...]: all chosen clips, then all rejected ones
    latents = batch.latents.transpose(0, 1).flatten(0, 1)
    noise = noise[:, :clips_per_pair].transpose(0, 1).flatten(0, 1)
    level, conditioning = level.repeat(clips_per_pair), batch.conditioning.repeat(clips_per_pair)
    noisy = model.noise.noisy(latents, noise, level)
    target = model.noise.target(latents, noise, level)
    prediction = model.predict(noisy, level, conditioning)
    error = squared_error_map(prediction, target)
    ref_error = drift = torch.full_like(error, torch.nan)
    if with_reference:
        with policy.reference():
            ref_prediction = model.predict(noisy, level, conditioning)
        ref_error, drift = squared_error_map(ref_prediction, target), squared_error_map(prediction, ref_prediction)
    chosen, rejected = _chosen_and_rejected(error, len(batch))
    ref_chosen, ref_rejected = _chosen_and_rejected(ref_error, len(batch))
    drift_chosen, drift_rejected = _chosen_and_rejected(drift, len(batch))
    return PairErrors(chosen, rejected, ref_chosen, ref_rejected, drift_chosen, drift_rejected)


def _chosen_and_rejected(maps: Tensor, num_pairs: int) -> tuple[Tensor, Tensor]:
    """The maps of the chosen and of the rejected clips, [num_pairs, T, h, w]; NaN where there are no rejected ones."""
    chosen, rejected = maps[:num_pairs], maps[num_pairs:]
    return chosen, rejected if len(rejected) else torch.full_like(chosen, torch.nan)
