"""What every backbone of the reward network has in common: specification, interface, features, choice of frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from halovid.config.sections import LoraOptions


class BackboneSpec(BaseModel):
    """What every backbone is built from; saved beside the weights.

    width: of its features, D.  num_frames, frame_height, frame_width: of the clips that it sees.
    temporal_stride, causal_first_frame: those of the generator's autoencoder, see `maths.grid.LatentGeometry`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int
    num_frames: int
    frame_height: int
    frame_width: int
    temporal_stride: int
    causal_first_frame: bool

    @property
    def lead(self) -> int:
        """How many copies of the first frame are put before the clip.

        A causal autoencoder's first frame is a latent frame of its own; with the copies it is as long as the others.
        """
        return self.temporal_stride - 1 if self.causal_first_frame else 0


class EncoderSpec(BackboneSpec):
    """A video encoder, and a transformer layer by which its cells attend to the prompt.

    model: a folder or hub id, whose pretrained weights the encoder starts from; None trains it from scratch.
    lora: train adapters instead of the pretrained weights.
    """

    name: Literal["conv", "videomae", "vjepa2"]
    layers: int
    heads: int
    patch_size: int
    prompt_width: int
    model: str | None = None
    lora: LoraOptions | None = None


class DenoiserSpec(BackboneSpec):
    """Convolutions over the hidden states of the generator's own denoiser, which reads latents and no pixels.

    states: how many numbers a hidden state has.  block: the denoiser's block that gives them, counted from 0.
    levels: the noise levels at which it is shown the clips.
    """

    name: Literal["denoiser"]
    layers: int
    states: int
    block: int
    levels: tuple[float, ...]


class LanguageSpec(BackboneSpec):
    """A vision-language model: `frames` pictures of `input_height` x `input_width` pixels and the prompt as text."""

    name: Literal["qwen_vl", "smolvlm", "idefics2"]
    model: str
    frames: int
    input_height: int
    input_width: int
    fps: float
    dtype: Literal["float32", "bfloat16"]
    lora: LoraOptions | None = None


class Features(NamedTuple):
    """What the heads read: `grid` [B, T', h', w', D], a vector per cell, and `clip` [B, D], one for the whole clip."""

    grid: Tensor
    clip: Tensor


class Backbone(nn.Module, ABC):
    """Turns clips and prompts into features.

    pretrained: whether it starts from pretrained weights.
    reads_text: whether it takes prompts as token ids; else as text states of the generator.
    sees_pixels: whether it is shown clips as they look; else as the hidden states that a denoiser has of them.
    adapted: the name of the submodule whose weights are frozen under LoRA adapters; None without adapters.
    """

    pretrained = False
    reads_text = False
    sees_pixels = True
    adapted: str | None = None

    @abstractmethod
    def forward(self, video: Tensor, prompts: Tensor) -> Features:
        """The features of clips [B, 3, F, H, W] in [-1, 1].

        Args:
            prompts: text states of the generator [B, L, D'], zero rows are padding; for a backbone that reads text,
                token ids [B, L], -1 is padding.
        """

    def tokenize(self, prompts: list[str]) -> Tensor:
        """The token ids of prompts, [B, L], padded with -1; TypeError unless the backbone reads text."""
        raise TypeError(f"{type(self).__name__} reads text conditions, not text")

    def checkpoint_gradients(self) -> None:
        """Turns on gradient checkpointing, if the backbone has enough activations to gain from it."""


def frame_times(spec: BackboneSpec, count: int) -> Tensor:
    """The indices of `count` frames, [count], that are evenly spaced over the latent frames of the clip.

    Latent frames count as equally long: with a causal autoencoder the first frame, which is a latent frame of its own,
    is as long as the `temporal_stride` frames of any other. If `count` is a multiple of the number of latent frames,
    equally many indices fall into each.
    """
    length = spec.num_frames + spec.lead
    padded = ((torch.arange(count) + 0.5) * length / count).long()
    return (padded - spec.lead).clamp(min=0)
