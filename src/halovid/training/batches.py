"""The pairs or groups, noise and noise levels of a step, drawn for the whole batch from the seed and the step alone.

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
    """The indices of the `size` items, pairs or groups, that a step trains on, of `count`.

    An epoch visits all items once, in a random order of its own; a batch may reach into the next epoch.
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
    size: tuple[int, int], shape: Sequence[int], shared: bool, levels: SigmaSampling, step: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The noise of the clips of a step, [*size, *shape], and the levels [size[0]] in 0..1.

    Args:
        size: the number of pairs or groups, and how many clips each has.
        shape: of a clip's latents, (C, T, h, w).
        shared: give all clips of a pair or group the same noise.
        levels: the distribution of the noise levels.
    """
    count, clips = size
    generator = torch.Generator().manual_seed(step_seed(seed, _STEP_STRIDE, step))
    noise = torch.randn((count, 1 if shared else clips, *shape), generator=generator).expand(-1, clips, *shape)
    return noise, sample_sigma(count, levels, generator)
