"""Qwen-Image: a flow over squares of 2 x 2 latent cells of a video autoencoder, which sees a picture as one frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.maths.grid import LatentGeometry
from halovid.models.family import Family, guide_classically, read_settings
from halovid.models.pictures import not_a_picture, pack_squares, picture_arguments, unpack_squares

_MAX_TEXT = 512  # tokens, the default of the pipeline's call


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Text states of the longest prompt's length, at most 512, and which of them count."""
    states, mask = pipe.encode_prompt(prompts, device=pipe.device, max_sequence_length=_MAX_TEXT)
    if mask is None:  # all of them
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    return {"prompt_embeds": states, "prompt_embeds_mask": mask}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """The network counts time from 0 to 1."""
    height, width = noisy.shape[3:]
    output = network(
        hidden_states=pack_squares(noisy),
        encoder_hidden_states=tensors["prompt_embeds"],
        encoder_hidden_states_mask=tensors["prompt_embeds_mask"],
        timestep=timestep / 1000,
        img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
        return_dict=False,
    )[0]
    return unpack_squares(output, (1, height, width))


def _guide(output: Tensor, negative_output: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance that changes the direction of each square's output and keeps its length."""
    unguided, guided = pack_squares(output), pack_squares(guide_classically(output, negative_output, scale))
    kept = guided * (unguided.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
    return unpack_squares(kept, (1, *output.shape[3:]))


def _call(config: GeneratorConfig) -> dict[str, Any]:
    """The pipeline's own `guidance_scale` is an input of distilled networks, which this is not."""
    arguments = picture_arguments(config)
    return arguments | {"true_cfg_scale": arguments.pop("guidance_scale")}


def _geometry(vae: Any) -> LatentGeometry:
    halvings = vae.config.temperal_downsample
    return LatentGeometry(2 ** sum(halvings), 2 ** len(halvings), causal_first_frame=True)


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    if read_settings(folder, "transformer/config.json").get("guidance_embeds"):
        return "is told its guidance scale as an input; only Qwen-Image without that is driven so far"
    return not_a_picture(folder, config)


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=_geometry,
    side_multiple=2,
    channels=lambda network: network.config.in_channels // 4,
    unpack=lambda pipe, latents, shape: unpack_squares(latents, shape),
    call=_call,
    guide=_guide,
    problem=_problem,
)
