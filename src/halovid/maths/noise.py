"""Noise: how clips become noise, what networks predict on the way, and the sampling of noise levels.

A noise level is one number in 0..1 for every model: 0 is the clip, 1 is as much noise as the model was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass
from torch import Tensor

WeightScheme = Literal["constant", "flow_dpo"]


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class SigmaSampling:
    """How training draws noise levels, in 0..1.

    Source of the logit-normal distribution and of the shift, s * x / (1 + (s - 1) * x): SD3 (arXiv 2403.03206).
    """

    scheme: Literal["uniform", "logit_normal"] = Field(
        default="logit_normal", description="evenly on 0..1, or the sigmoid of a normal distribution"
    )
    mean: float = Field(default=0.0, description="logit_normal: mean of the normal distribution")
    std: float = Field(default=1.0, gt=0, description="logit_normal: standard deviation of the normal distribution")
    shift: float = Field(default=1.0, gt=0, description="above 1 it moves levels towards noise, as large clips need")
    lowest: float = Field(default=0.0, ge=0, lt=1, description="lowest level; all are scaled into lowest..highest")
    highest: float = Field(default=1.0, gt=0, le=1, description="highest level")

    def __post_init__(self) -> None:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest sigma {self.lowest} must be below highest {self.highest}")


def sample_sigma(count: int, options: SigmaSampling, generator: torch.Generator) -> Tensor:
    """`count` noise levels, [count] in lowest..highest."""
    if options.scheme == "uniform":
        sigma = torch.rand(count, generator=generator)
    else:
        sigma = torch.sigmoid(options.mean + options.std * torch.randn(count, generator=generator))
    sigma = shifted(sigma, options.shift)
    return options.lowest + (options.highest - options.lowest) * sigma


def shifted(levels: Tensor, shift: float) -> Tensor:
    """Levels in 0..1 moved towards noise by a shift above 1, see `SigmaSampling`."""
    return shift * levels / (1 + (shift - 1) * levels)


def seeded_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Normal noise on the CPU, [len(seeds), *shape], of which each row is a function of its seed alone."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@dataclass(frozen=True)
class NoiseProcess:
    """The path from clips to noise that a model was trained on, and what its network predicts there.

    On every path noisy = a * latents + b * noise. A `flow` has a = 1 - level and b = level, and its timestep is
    level * `num_steps`. The other kinds have as many steps as `alphas` has entries: level k / num_steps is the k-th of
    them (timestep k - 1), with a^2 = alphas[k - 1] and b^2 = 1 - a^2; level 0 is the clip itself. Levels in between
    are rounded to a step, since networks were trained on no others.

    Shapes: `latents`, `noise`, `noisy` and `output` [B, ...]; `level` [B].

    Args:
        kind: what the network predicts: `flow` noise - latents (arXiv 2210.02747), `epsilon` the noise
            (arXiv 2006.11239), `v_prediction` a * noise - b * latents (arXiv 2202.00512), `sample` the latents.
        alphas: the cumulative products of 1 - beta, [num_steps], from the cleanest step on; None for a flow.
        num_steps: what timesteps are counted in.

    Raises:
        ValueError: the kind has no such path, or the noise is predicted where the path holds nothing else.
    """

    kind: Literal["flow", "epsilon", "v_prediction", "sample"]
    alphas: Tensor | None = None
    num_steps: int = 1000

    def __post_init__(self) -> None:
        if (self.kind == "flow") != (self.alphas is None):
            raise ValueError(f"a path of kind {self.kind!r} {'has no' if self.alphas is not None else 'needs'} alphas")
        if self.alphas is not None and len(self.alphas) != self.num_steps:
            raise ValueError(f"{len(self.alphas)} alphas do not make a path of {self.num_steps} steps")
        if self.kind == "epsilon" and self.alphas is not None and bool((self.alphas <= 0).any()):
            raise ValueError("a model that predicts noise can't start from noise alone: alphas must be above 0")

    def timestep(self, level: Tensor) -> Tensor:
        """What the network is told of the level, [B]: floating point for a flow, whole numbers for the others."""
        return level * self.num_steps if self.alphas is None else (self._step(level) - 1).clamp(min=0)

    def level(self, timestep: Tensor) -> Tensor:
        """The level of a timestep: the inverse of `timestep`, in single precision."""
        return (timestep if self.alphas is None else timestep + 1).float() / self.num_steps

    def noisy(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The latents at this noise level."""
        kept, added = self._shares(level, latents)
        return kept * latents + added * noise

    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What a perfect network gives for these latents and this noise."""
        if self.kind == "flow":
            return noise - latents
        if self.kind == "v_prediction":
            kept, added = self._shares(level, latents)
            return kept * noise - added * latents
        return noise if self.kind == "epsilon" else latents

    def split(self, output: Tensor, noisy: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The latents and the noise that the network's output takes `noisy` apart into."""
        kept, added = self._shares(level, noisy)
        if self.kind == "flow":
            return noisy - added * output, noisy + kept * output
        if self.kind == "v_prediction":
            return kept * noisy - added * output, added * noisy + kept * output
        if self.kind == "epsilon":
            return (noisy - added * output) / kept, output
        return output, (noisy - kept * output) / added.clamp(min=torch.finfo(added.dtype).tiny)

    def denoised(self, output: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """The latents that the network sees behind the noise."""
        return self.split(output, noisy, level)[0]

    def step(self, output: Tensor, noisy: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
        """The noisy latents at `next_level`: the same latents and the same noise, in other shares.

        This is an Euler step of a flow, and a DDIM step (arXiv 2010.02502) of the others.
        """
        if self.kind == "flow":
            return noisy + _per_clip(next_level - level, noisy) * output
        return self.noisy(*self.split(output, noisy, level), next_level)

    def random_step(
        self, output: Tensor, noisy: Tensor, level: Tensor, next_level: Tensor, fresh: float
    ) -> tuple[Tensor, Tensor]:
        """The mean [B, ...] and the standard deviation [B] of a step that replaces a share of the noise by new noise.

        What is left is as noisy as after `step`, whatever the share, as Coefficients-Preserving Sampling has it
        (arXiv 2509.05952); `fresh` is its sin(eta pi / 2), and the eta of DDIM as a share of the next level.

        Args:
            fresh: the new noise's share, 0..1; at 0 this is `step`, at 1 all noise is new.
        """
        latents, noise = self.split(output, noisy, level)
        kept, added = self._shares(next_level, noisy)
        return kept * latents + added * (1 - fresh**2) ** 0.5 * noise, added.flatten() * fresh

    def noise_gain(self, level: Tensor) -> Tensor:
        """How much the predicted noise changes with the network's output, |d noise / d output|, [B].

        Squared errors of outputs times its square are squared errors of noise, whatever the network predicts.
        """
        if self.kind == "epsilon":
            return torch.ones_like(level)
        kept, added = self._shares(level, level)
        return kept / added.clamp(min=torch.finfo(added.dtype).tiny) if self.kind == "sample" else kept

    def _shares(self, level: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, in the number format of `like` and shaped to multiply it clip by clip."""
        if self.alphas is None:
            added = _per_clip(level, like)
            return 1 - added, added
        squares = torch.cat([self.alphas.new_ones(1), self.alphas]).to(level.device)[self._step(level)]
        return _per_clip(squares.sqrt(), like), _per_clip((1 - squares).sqrt(), like)

    def _step(self, level: Tensor) -> Tensor:
        """How many steps a level is away from the clip: whole numbers in 0..num_steps."""
        return (level.float() * self.num_steps).round().long().clamp(0, self.num_steps)


def _per_clip(values: Tensor, like: Tensor) -> Tensor:
    """One value per clip, [B], so that it multiplies `like`, [B, ...], in the number format of `like`."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


def timestep_weight(noise: NoiseProcess, level: Tensor, scheme: WeightScheme) -> Tensor:
    """w(timestep) of the preference logits, [B]: 1, or for `flow_dpo` what makes of output errors those of the noise.

    For a flow that is (1 - level)^2, as Flow-DPO derives it (arXiv 2501.13918).
    """
    return torch.ones_like(level) if scheme == "constant" else noise.noise_gain(level) ** 2
