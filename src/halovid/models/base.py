"""What halovid asks of a text-to-video model: the one contract between the stages and a model family."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from diffusers import ModelMixin
from torch import Tensor

from halovid.maths.grid import LatentGeometry

ADAPTER = "halo"  # name of the LoRA that alignment trains


class Sampler(Protocol):
    """What turns prompts into clips.

    Shapes: `video` [B, 3, F, H, W] float in [-1, 1]; `latents` [B, C, T, h, w], scaled as the network expects;
    `prompt_embeds` [B, L, D].
    """

    geometry: LatentGeometry

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """The text condition of each prompt."""

    def sample(self, prompt_embeds: Tensor, seeds: list[int]) -> Tensor:
        """Latents of one clip per row, each a function of its own seed alone, whatever it is batched with."""

    def decode_video(self, latents: Tensor) -> Tensor:
        """Clips of latents, clamped to [-1, 1]."""


class Generator(Sampler, Protocol):
    """A text-to-video diffusion model behind a fixed set of tensors.

    Shapes as in `Sampler`; `noise`, `noisy_latents` like `latents`; `sigma` [B] in 0..1.
    """

    denoiser: ModelMixin
    lora_targets: tuple[str, ...]

    def encode_video(self, video: Tensor) -> Tensor:
        """Latents of clips."""

    def add_noise(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Noisy latents at noise level `sigma`."""

    def predict(self, noisy_latents: Tensor, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        """The network's output, without guidance: what training compares with `target`."""

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """What `predict` should give for these latents and this noise."""

    def save_weights(self, folder: Path) -> None:
        """Writes what training changed: an adapter in diffusers' `load_lora_weights` layout, or all weights."""

    def load_weights(self, folder: Path) -> None:
        """Takes over what `save_weights` wrote."""

    def save_merged(self, folder: Path) -> None:
        """Writes the whole pipeline as it samples now, an adapter merged into the weights that it changes."""
