"""Which pairs, noise and noise levels a step has: functions of the seed and the step alone, for the whole batch.

Whoever works on a part of a batch takes its rows of these, so that neither resuming nor sharing changes a training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from halovid.maths.noise import SigmaSampling, sample_sigma
from halovid.maths.seeds import step_seed

_STEP_STRIDE, _EPOCH_STRIDE = 1_000_003, 7_000_003


def batch_indices(count: int, size: int, step: int, seed: int) -> list[int]:
    """The `size` pairs of a step, of `count`: all pairs in a new random order each time that they are through."""
    orders: dict[int, list[int]] = {}
    indices = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, count)
        if epoch not in orders:
            generator = torch.Generator().manual_seed(step_seed(seed, _EPOCH_STRIDE, epoch))
            orders[epoch] = torch.randperm(count, generator=generator).tolist()
        indices.append(orders[epoch][place])
    return indices


def draw_noise(
    size: int, shape: Sequence[int], shared: bool, levels: SigmaSampling, step: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The noise of a step's chosen and rejected clips, [size, 2, *shape], and the level of each pair, [size] in 0..1.

    Args:
        shape: of a clip's latents, [C, T, h, w].
        shared: one draw for both clips of a pair instead of one each.
    """
    generator = torch.Generator().manual_seed(step_seed(seed, _STEP_STRIDE, step))
    noise = torch.randn((size, 1 if shared else 2, *shape), generator=generator).expand(-1, 2, *shape)
    return noise, sample_sigma(size, levels, generator)
