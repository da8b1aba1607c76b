"""The pairs, noise and noise levels of a step, drawn for the whole batch from the seed and the step alone.

A process that works on a part of the batch takes its rows of them. So neither an interruption nor the number of
processes changes a training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from halovid.maths.noise import SigmaSampling, sample_sigma
from halovid.maths.seeds import step_seed

_STEP_STRIDE, _EPOCH_STRIDE = 1_000_003, 7_000_003


def batch_indices(count: int, size: int, step: int, seed: int) -> list[int]:
    """The indices of the `size` pairs that a step trains on, of `count` pairs.

    An epoch visits all pairs once, in a random order of its own; a batch may reach into the next epoch.
    """
    order_of_epoch: dict[int, list[int]] = {}
    indices = []
    for position in range(step * size, (step + 1) * size):
        epoch, position_in_epoch = divmod(position, count)
        if epoch not in order_of_epoch:
            generator = torch.Generator().manual_seed(step_seed(seed, _EPOCH_STRIDE, epoch))
            order_of_epoch[epoch] = torch.randperm(count, generator=generator).tolist()
        indices.append(order_of_epoch[epoch][position_in_epoch])
    return indices


def draw_noise(
    size: int, shape: Sequence[int], shared: bool, levels: SigmaSampling, step: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The noise of the chosen and rejected clips of a step, [size, 2, *shape], and the levels [size] in 0..1.

    Args:
        size: the number of pairs.
        shape: of a clip's latents, (C, T, h, w).
        shared: give both clips of a pair the same noise.
        levels: the distribution of the noise levels.
    """
    generator = torch.Generator().manual_seed(step_seed(seed, _STEP_STRIDE, step))
    noise = torch.randn((size, 1 if shared else 2, *shape), generator=generator).expand(-1, 2, *shape)
    return noise, sample_sigma(size, levels, generator)
