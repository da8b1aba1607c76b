"""Stable Diffusion 1 and 2: a UNet over the latents of pictures that predicts epsilon (1.5) or v (2.1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import Family, decode_frames, encode_frames
from halovid.models.pictures import add_time, picture_arguments, picture_geometry, unet_problem


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Text states, padded to 77 tokens, all of which the model attends to."""
    return {"prompt_embeds": pipe.encode_prompt(prompts, pipe.device, 1, do_classifier_free_guidance=False)[0]}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    return network(noisy.squeeze(2), timestep, tensors["prompt_embeds"], return_dict=False)[0].unsqueeze(2)


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=picture_geometry,
    denoisers=("unet",),
    encode_video=encode_frames,
    decode_video=decode_frames,
    unpack=add_time,
    call=picture_arguments,
    problem=unet_problem,
)
