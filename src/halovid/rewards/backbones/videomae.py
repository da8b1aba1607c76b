"""VideoMAE: from nothing, or from pretrained weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEModel

from halovid.rewards.backbones.base import EncoderSpec, frame_times
from halovid.rewards.pretrained import load_base
from halovid.rewards.readers.pixels import normalise, resize, to_bytes

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: what the pretrained weights were shown


class VideoMAEEncoder(nn.Module):
    """A small VideoMAE encoder whose tubelets are the latent frames of the generator, trained from nothing."""

    _times: Tensor

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        frames = spec.num_frames + spec.lead
        self.register_buffer("_times", frame_times(spec, frames), persistent=False)
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
        tokens = self.encoder(pixel_values=video[:, :, self._times].transpose(1, 2)).last_hidden_state
        return tokens.unflatten(1, self._grid)


class PretrainedVideoMAE(nn.Module):
    """A pretrained VideoMAE at the size that it was trained at: frames are sampled and resized to it.

    The grid covers the whole frame, so a patch of the clip is the same share of the grid.
    """

    _times: Tensor

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.base = load_base(str(spec.model), {"videomae"})
        config = self.base.config
        self.register_buffer("_times", frame_times(spec, config.num_frames), persistent=False)
        side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        self._size = (side, side)
        cells = side // (config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0])
        self._grid = (config.num_frames // config.tubelet_size, cells, cells)

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, F, H, W] -> [B, T', h', w', D]."""
        with torch.no_grad():
            frames = to_bytes(video[:, :, self._times]).transpose(1, 2)
            pixels = normalise(resize(frames, self._size, "bilinear"), _MEAN, _STD)
        return self.base(pixel_values=pixels).last_hidden_state.unflatten(1, self._grid)
