"""FLUX.1: a flow over squares of 2 x 2 latent cells; its guidance scale is an input of the network (dev) or none
(schnell)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import Family, decode_frames, encode_frames, frame_geometry, read_settings
from halovid.models.pictures import (
    not_a_picture,
    pack_squares,
    picture_arguments,
    unpack_squares,
)


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """512 text states of T5, all of which the model attends to, and CLIP's pooled vector."""
    states, pooled, _ = pipe.encode_prompt(prompts, device=pipe.device)
    return {"prompt_embeds": states, "pooled_prompt_embeds": pooled}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """Positions are rows and columns of squares; all texts are at the origin. The network counts time from 0 to 1."""
    texts, (height, width) = tensors["prompt_embeds"], noisy.shape[3:]
    guidance = None
    if network.config.guidance_embeds:
        guidance = torch.full((len(noisy),), config.guidance_scale, device=noisy.device)
    output = network(
        hidden_states=pack_squares(noisy),
        encoder_hidden_states=texts,
        pooled_projections=tensors["pooled_prompt_embeds"],
        timestep=timestep / 1000,
        img_ids=pipe._prepare_latent_image_ids(1, height // 2, width // 2, noisy.device, noisy.dtype),
        txt_ids=texts.new_zeros(texts.shape[1], 3),
        guidance=guidance,
        return_dict=False,
    )[0]
    return unpack_squares(output, (1, height, width))


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    if config.negative_prompt:
        return "takes no negative prompt: leave generator.negative_prompt empty"
    if config.guidance_scale > 1 and not read_settings(folder, "transformer/config.json").get("guidance_embeds"):
        return f"was distilled without guidance: generator.guidance_scale is {config.guidance_scale:g}, set it to 1"
    return not_a_picture(folder, config)


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=frame_geometry,
    side_multiple=2,
    channels=lambda network: network.config.in_channels // 4,
    encode_video=encode_frames,
    decode_video=decode_frames,
    unpack=lambda pipe, latents, shape: unpack_squares(latents, shape),
    call=picture_arguments,
    guided=lambda config: False,
    problem=_problem,
)
