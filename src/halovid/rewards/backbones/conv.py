"""Residual 3-D convolutions, trained from scratch."""

from __future__ import annotations

from torch import Tensor, nn

from halovid.rewards.backbones.base import EncoderSpec, frame_times


class ConvEncoder(nn.Module):
    """Residual 3-D convolutions, which learn local defects from a few hundred clips; transformers need many more.

    Height and width are halved until a cell is `patch_size` pixels wide. In time a cell is a latent frame of the
    generator.
    """

    _times: Tensor

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.register_buffer("_times", frame_times(spec, spec.num_frames + spec.lead), persistent=False)
        halvings = spec.patch_size.bit_length() - 1
        widths = [max(16, (spec.width >> (halvings - k)) // 8 * 8) for k in range(1, halvings + 1)]
        layers: list[nn.Module] = []
        inputs = 3
        for width in widths:
            layers += [_convolution(inputs, width, (1, 2, 2)), Residual(width)]
            inputs = width
        latent_frame = (spec.temporal_stride, 1, 1)
        layers.append(nn.Conv3d(inputs, spec.width, latent_frame, latent_frame))
        layers += [Residual(spec.width) for _ in range(spec.layers)]
        self.layers = nn.Sequential(*layers)

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, F, H, W] -> [B, T', h', w', D]."""
        return self.layers(video[:, :, self._times]).movedim(1, -1)


def _convolution(inputs: int, outputs: int, stride: tuple[int, int, int]) -> nn.Sequential:
    """A 3 x 3 x 3 convolution, normalised."""
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(8, outputs), nn.SiLU())


class Residual(nn.Module):
    """x + convolution(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = _convolution(width, width, (1, 1, 1))

    def forward(self, value: Tensor) -> Tensor:
        """Same shape as `value`."""
        return value + self.branch(value)
