"""V-JEPA 2 with pretrained weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halovid.rewards.backbones.base import EncoderSpec, frame_times
from halovid.rewards.pretrained import load_base
from halovid.rewards.readers.pixels import normalise, resize, to_bytes

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VJEPA2Encoder(nn.Module):
    """The V-JEPA 2 encoder at its own frame size; its rotary positions take any number of frames.

    The clip keeps all its frames, the first one repeated to fill a latent frame; an odd number gets the last one twice.
    """

    _times: Tensor

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.base = load_base(str(spec.model), {"vjepa2"})
        self.base.predictor = None  # it fills in masked features, which nothing here asks for
        config = self.base.config
        frames = -(-(spec.num_frames + spec.lead) // config.tubelet_size) * config.tubelet_size
        self.register_buffer("_times", frame_times(spec, frames), persistent=False)
        self._size = (config.crop_size, config.crop_size)
        cells = config.crop_size // config.patch_size
        self._grid = (frames // config.tubelet_size, cells, cells)

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, F, H, W] -> [B, T', h', w', D]."""
        with torch.no_grad():
            frames = to_bytes(video[:, :, self._times]).transpose(1, 2)
            pixels = normalise(resize(frames, self._size, "bilinear"), _MEAN, _STD)
        tokens = self.base(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
        return tokens.unflatten(1, self._grid)
