"""Video backbones: clips -> grids of features, [B, 3, F, H, W] -> [B, T', h', w', D]."""

from __future__ import annotations

from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEModel


class BackboneSpec(BaseModel):
    """What a backbone is built from; saved beside the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    width: int
    layers: int
    heads: int
    patch_size: int
    num_frames: int
    frame_height: int
    frame_width: int
    temporal_stride: int
    causal_first_frame: bool


class Backbone(Protocol):
    """A module with `width`, the number of features D."""

    width: int

    def __call__(self, video: Tensor) -> Tensor:
        """[B, 3, F, H, W] in [-1, 1] -> [B, T', h', w', D]."""


class VideoMAEBackbone(nn.Module):
    """A VideoMAE encoder whose tubelets are the latent frames of the generator.

    A causal autoencoder gives the first frame a latent frame of its own; here it is repeated, so that it fills a
    tubelet and the features lie on the same grid.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.width = spec.width
        self._lead = spec.temporal_stride - 1 if spec.causal_first_frame else 0
        frames = spec.num_frames + self._lead
        self._grid = (
            frames // spec.temporal_stride,
            spec.frame_height // spec.patch_size,
            spec.frame_width // spec.patch_size,
        )
        self.encoder = VideoMAEModel(
            VideoMAEConfig(
                image_size=(spec.frame_height, spec.frame_width),
                patch_size=spec.patch_size,
                num_frames=frames,
                tubelet_size=spec.temporal_stride,
                hidden_size=spec.width,
                num_hidden_layers=spec.layers,
                num_attention_heads=spec.heads,
                intermediate_size=4 * spec.width,
            )
        )

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, F, H, W] -> [B, T', h', w', D]."""
        padded = torch.cat([video[:, :, :1].expand(-1, -1, self._lead, -1, -1), video], dim=2)
        tokens = self.encoder(pixel_values=padded.transpose(1, 2)).last_hidden_state
        return tokens.unflatten(1, self._grid)


BACKBONES = {"videomae": VideoMAEBackbone}
