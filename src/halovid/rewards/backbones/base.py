"""What a backbone is built from and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from halovid.config.sections import LoraOptions


class BackboneSpec(BaseModel):
    """What every backbone is built from; saved beside the weights.

    width: of its features.  num_frames, frame_height, frame_width: of the clips that it sees.
    temporal_stride, causal_first_frame: how the diffusion model that makes the clips divides time.
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
        """How many copies of the first frame go ahead of the clip.

        A causal autoencoder's first frame has a latent frame of its own: with the copies it is as long as all others.
        """
        return self.temporal_stride - 1 if self.causal_first_frame else 0


class EncoderSpec(BackboneSpec):
    """A video encoder and the transformer layer that shows it the prompt.

    With `model`, a folder or hub id, the encoder starts from pretrained weights; `lora` then says how it is adapted.
    """

    name: Literal["conv", "videomae", "vjepa2"]
    layers: int
    heads: int
    patch_size: int
    prompt_width: int
    model: str | None = None
    lora: LoraOptions | None = None


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
    """What heads read: `grid` [B, T', h', w', D], one vector per cell, and `clip` [B, D], one for the whole clip."""

    grid: Tensor
    clip: Tensor


class Backbone(nn.Module, ABC):
    """Clips and prompts -> features.

    pretrained: whether it starts from weights that exist.  reads_text: whether prompts are token ids.
    adapted: the submodule whose own weights are frozen under LoRA adapters, if there is one.
    """

    pretrained = False
    reads_text = False
    adapted: str | None = None

    @abstractmethod
    def forward(self, video: Tensor, prompts: Tensor) -> Features:
        """Features of clips [B, 3, F, H, W] in [-1, 1].

        Args:
            prompts: [B, L, D'] text conditions of the generator, zero rows are padding; or [B, L] token ids, -1 is
                padding, for a backbone that reads text.
        """

    def tokenize(self, prompts: list[str]) -> Tensor:
        """[B, L] token ids of prompts, padded with -1."""
        raise TypeError(f"{type(self).__name__} reads text conditions, not text")

    def checkpoint_gradients(self) -> None:
        """Saves memory in training: from now on activations are computed again in the backward pass, not kept.

        A backbone with few activations changes nothing.
        """


def frame_times(spec: BackboneSpec, count: int) -> Tensor:
    """[count] indices of frames that are evenly spaced in the time of the diffusion model's latents.

    In that time every latent frame is equally long: with a causal autoencoder the first frame, which is a latent frame
    by itself, is as long as the `temporal_stride` frames of any other. If `count` is a multiple of the number of latent
    frames, each of them gives equally many indices.
    """
    length = spec.num_frames + spec.lead
    padded = ((torch.arange(count) + 0.5) * length / count).long()
    return (padded - spec.lead).clamp(min=0)
