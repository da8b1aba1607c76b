"""Sampling with random steps: some steps replace a share of the noise by new noise, and are kept for training.

Where a sampler draws at random, a policy gradient can say which draws were good (Flow-GRPO, arXiv 2505.05470). A few
random steps suffice, as MixGRPO (arXiv 2507.21802) has found; the others are those of the deterministic sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halovid.maths.noise import shifted
from halovid.models.base import DiffusionModel
from halovid.records import Conditioning


@dataclass(frozen=True)
class RandomSteps:
    """The random steps of B clips, S of each.

    before, after: the noisy latents, [B, S, C, T, h, w].  level, next_level: [B, S] in 0..1.
    """

    before: Tensor
    after: Tensor
    level: Tensor
    next_level: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> RandomSteps:
        """The steps with every tensor changed."""
        return RandomSteps(*(change(value) for value in vars(self).values()))


def sampling_levels(steps: int, shift: float) -> Tensor:
    """The noise levels of a sampler, [steps + 1] from 1 to 0, evenly spaced and then shifted towards noise."""
    return shifted(torch.linspace(1, 0, steps + 1), shift)


@torch.no_grad()
def sample_with_random_steps(
    model: DiffusionModel,
    conditioning: Conditioning,
    start: Tensor,
    new_noise: Tensor,
    levels: Tensor,
    random: Sequence[int],
    fresh: float,
) -> tuple[Tensor, RandomSteps]:
    """The latents of clips, [B, C, T, h, w], and their random steps.

    Args:
        start: the noise that sampling starts from, [B, C, T, h, w].
        new_noise: what the random steps draw, [S, B, C, T, h, w].
        levels: see `sampling_levels`.
        random: the numbers of the S random steps, ascending; the last step of all can't be one.
        fresh: share of new noise in a random step, in 0..1.
    """
    sample, done = start, list[tuple[Tensor, ...]]()
    for number in range(len(levels) - 1):
        level, next_level = (value.to(sample).expand(len(sample)) for value in levels[number : number + 2])
        output = model.predict_guided(sample, level, conditioning)
        if number in random:
            mean, deviation = model.noise.random_step(output, sample, level, next_level, fresh)
            following = mean + deviation.view(-1, *[1] * (mean.dim() - 1)) * new_noise[len(done)].to(mean)
            done.append((sample, following, level, next_level))
        else:
            following = model.noise.step(output, sample, level, next_level)
        sample = following
    return sample, RandomSteps(*(torch.stack(values, dim=1) for values in zip(*done, strict=True)))


def random_step_error(
    model: DiffusionModel, steps: RandomSteps, conditioning: Conditioning, fresh: float
) -> tuple[Tensor, Tensor]:
    """How improbable one random step of each clip is to the model, and the output that says so.

    Args:
        steps: with S = 1.

    Returns:
        Minus the log-probability density up to a constant, a map of means over channels [B, T, h, w]; and the guided
        output, [B, C, T, h, w].
    """
    step = steps.each(lambda value: value[:, 0])
    output = model.predict_guided(step.before, step.level, conditioning)
    mean, deviation = model.noise.random_step(output, step.before, step.level, step.next_level, fresh)
    distance = (step.after.float() - mean.float()).square().mean(1)
    return distance / (2 * deviation.float().square()).view(-1, 1, 1, 1), output
