"""AnimateDiff: Stable Diffusion 1.5 with layers for motion, over the latents of single frames: epsilon.

A pipeline that was put together from a Stable Diffusion and a motion adapter is saved once by its `save_pretrained`;
the folder then holds the network with both.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.families import text_to_video_sd
from halovid.models.family import read_settings

_MOST_FRAMES = 32  # UNetMotionModel's default


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """Every frame has a row of text of its own; here all rows of a clip are alike."""
    texts = tensors["prompt_embeds"].repeat_interleave(noisy.shape[2], dim=0)
    return network(noisy, timestep, texts, return_dict=False)[0]


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    index = read_settings(folder, "model_index.json")
    if index["unet"][1] != "UNetMotionModel":
        return "has a network without motion layers: give the folder that the whole pipeline's save_pretrained wrote"
    settings = read_settings(folder, "unet/config.json")
    most = settings.get("motion_max_seq_length", _MOST_FRAMES)
    if config.num_frames > most:
        return f"makes at most {most} frames: generator.num_frames is {config.num_frames}"
    return None


FAMILY = dataclasses.replace(text_to_video_sd.FAMILY, predict=_predict, problem=_problem)
