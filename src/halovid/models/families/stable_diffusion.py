"""Stable Diffusion 1 and 2: a UNet over the latents of pictures that predicts epsilon (1.5) or v (2.1)."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.families import text_to_video_sd
from halovid.models.pictures import add_time, picture_arguments, unet_problem


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    return network(noisy.squeeze(2), timestep, tensors["prompt_embeds"], return_dict=False)[0].unsqueeze(2)


FAMILY = dataclasses.replace(
    text_to_video_sd.FAMILY, predict=_predict, unpack=add_time, call=picture_arguments, problem=unet_problem
)
