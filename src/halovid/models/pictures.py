"""What families of text-to-image pipelines share: a picture is a clip of one frame, its latents are [B, C, 1, h, w]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import call_arguments, read_settings


def picture_arguments(config: GeneratorConfig) -> dict[str, Any]:
    """The arguments of most image pipelines' calls, besides prompts and seeds."""
    return {name: value for name, value in call_arguments(config).items() if name != "num_frames"}


def not_a_picture(folder: Path, config: GeneratorConfig) -> str | None:
    """The `problem` of a family that makes pictures and takes all settings but a number of frames."""
    if config.num_frames == 1:
        return None
    return f"makes pictures: generator.num_frames must be 1, not {config.num_frames}"


def unet_problem(folder: Path, config: GeneratorConfig) -> str | None:
    """The `problem` of a family of pictures with a UNet."""
    if read_settings(folder, "unet/config.json").get("time_cond_proj_dim") is not None:
        return "is a latent consistency model, whose UNet is told the guidance scale; it is not driven so far"
    return not_a_picture(folder, config)


def add_time(pipe: Any, latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Latents of pictures [B, C, h, w] as those of clips of one frame: the `unpack` of most image pipelines."""
    return latents.unsqueeze(2)


def pack_squares(latents: Tensor) -> Tensor:
    """Squares of 2 x 2 cells as tokens, row by row: [B, C, 1, h, w] -> [B, (h / 2) (w / 2), 4 C]."""
    squares = latents.squeeze(2).unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # [B, C, h / 2, 2, w / 2, 2]
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack_squares(tokens: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The inverse of `pack_squares` for latents of this shape (1, h, w)."""
    _, height, width = shape
    squares = tokens.unflatten(1, (height // 2, width // 2)).unflatten(3, (-1, 2, 2))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3).unsqueeze(2)
