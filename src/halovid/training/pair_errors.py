"""What policy and reference predict for a batch of pairs, and how far that is from the target."""

from __future__ import annotations

import torch
from torch import Tensor

from halovid.maths.losses import PairErrors, squared_error_map
from halovid.training.pairs import PairBatch
from halovid.training.policy import Policy


def pair_errors(policy: Policy, batch: PairBatch, noise: Tensor, level: Tensor, with_reference: bool) -> PairErrors:
    """The error maps of the clips that the batch holds, [B, T, h, w] each; NaN where no prediction is made.

    Both clips of a pair go through the network together, and all predictions for a pair have its one level.

    Args:
        noise: [B, 2, C, T, h, w] for the chosen and the rejected clip, which usually are the same.
        level: [B] in 0..1.
        with_reference: also predict with the reference; without, its errors and the drift from it are NaN.
    """
    model, sides = policy.model, batch.latents.shape[1]
    latents, noise = (clips[:, :sides].transpose(0, 1).flatten(0, 1) for clips in (batch.latents, noise))
    level, prompts = level.repeat(sides), batch.conditioning.repeat(sides)
    noisy = model.noise.noisy(latents, noise, level)
    target = model.noise.target(latents, noise, level)
    prediction = model.predict(noisy, level, prompts)
    error = squared_error_map(prediction, target)
    ref_error = drift = torch.full_like(error, torch.nan)
    if with_reference:
        with policy.reference():
            reference = model.predict(noisy, level, prompts)
        ref_error, drift = squared_error_map(reference, target), squared_error_map(prediction, reference)
    maps = [maps_of_sides for cells in (error, ref_error, drift) for maps_of_sides in _sides(cells, len(batch))]
    return PairErrors(*maps)


def _sides(cells: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The maps of the chosen and of the rejected clips, [count, T, h, w]; the latter NaN where there are none."""
    chosen, rejected = cells[:count], cells[count:]
    return chosen, rejected if len(rejected) else torch.full_like(chosen, torch.nan)
