"""Noise: the flow-matching path and the sampling of noise levels.

`sigma` in 0..1 is the share of noise; a family whose scheduler counts otherwise converts inside its adapter.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated_dataclass
from torch import Tensor

WeightScheme = Literal["constant", "flow_dpo"]


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class SigmaSampling:
    """How training draws noise levels.

    scheme: "uniform" on 0..1, or "logit_normal": sigmoid of a normal with this mean and std (SD3,
        arXiv 2403.03206). shift > 1 moves levels towards noise, as large clips need: s * x / (1 + (s - 1) * x).
    """

    scheme: Literal["uniform", "logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    shift: float = Field(default=1.0, gt=0)
    lowest: float = Field(default=0.0, ge=0, lt=1)
    highest: float = Field(default=1.0, gt=0, le=1)

    def __post_init__(self) -> None:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest sigma {self.lowest} must be below highest {self.highest}")


def sample_sigma(count: int, options: SigmaSampling, generator: torch.Generator) -> Tensor:
    """`count` noise levels, [count] in lowest..highest."""
    if options.scheme == "uniform":
        sigma = torch.rand(count, generator=generator)
    else:
        sigma = torch.sigmoid(options.mean + options.std * torch.randn(count, generator=generator))
    sigma = options.shift * sigma / (1 + (options.shift - 1) * sigma)
    return options.lowest + (options.highest - options.lowest) * sigma


def flow_interpolate(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Noisy latents (1 - sigma) * latents + sigma * noise; sigma is [B]."""
    level = sigma.to(latents).reshape(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise


def flow_velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """The velocity of the flow path: d noisy_latents / d sigma."""
    return noise - latents


def timestep_weight(sigma: Tensor, scheme: WeightScheme) -> Tensor:
    """w(timestep) of the preference logits, [B]: 1, or (1 - sigma)^2 as Flow-DPO derives it (arXiv 2501.13918)."""
    return torch.ones_like(sigma) if scheme == "constant" else (1 - sigma) ** 2
