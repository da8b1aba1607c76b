"""Video backbones: clips -> grids of features, [B, 3, F, H, W] -> [B, T', h', w', D]."""

from __future__ import annotations

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


class VideoMAEBackbone(nn.Module):
    """A VideoMAE encoder whose tubelets are the latent frames of the generator.

    A causal autoencoder gives the first frame a latent frame of its own; here it is repeated, so that it fills a
    tubelet and the features lie on the same grid.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
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


class ConvBackbone(nn.Module):
    """Residual 3-D convolutions: learns local defects from a few hundred clips, where a transformer needs many more.

    Space is halved until a cell is `patch_size` pixels wide, time is divided as in `VideoMAEBackbone`.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self._lead = spec.temporal_stride - 1 if spec.causal_first_frame else 0
        halvings = spec.patch_size.bit_length() - 1
        widths = [max(16, (spec.width >> (halvings - k)) // 8 * 8) for k in range(1, halvings + 1)]
        layers: list[nn.Module] = []
        inputs = 3
        for width in widths:
            layers += [_convolution(inputs, width, (1, 2, 2)), _Residual(width)]
            inputs = width
        together = (spec.temporal_stride, 1, 1)
        layers.append(nn.Conv3d(inputs, spec.width, together, together))
        layers += [_Residual(spec.width) for _ in range(spec.layers)]
        self.layers = nn.Sequential(*layers)

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, F, H, W] -> [B, T', h', w', D]."""
        padded = torch.cat([video[:, :, :1].expand(-1, -1, self._lead, -1, -1), video], dim=2)
        return self.layers(padded).movedim(1, -1)


def _convolution(inputs: int, outputs: int, stride: tuple[int, int, int]) -> nn.Sequential:
    """A 3 x 3 x 3 convolution, normalised."""
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(8, outputs), nn.SiLU())


class _Residual(nn.Module):
    """x + convolution(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = _convolution(width, width, (1, 1, 1))

    def forward(self, value: Tensor) -> Tensor:
        """Same shape as `value`."""
        return value + self.branch(value)


BACKBONES = {"videomae": VideoMAEBackbone, "conv": ConvBackbone}
