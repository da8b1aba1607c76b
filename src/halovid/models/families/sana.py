"""Sana: a flow over the latents of an autoencoder that divides sides by 32; prompts are read after an instruction."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.maths.grid import LatentGeometry
from halovid.models.family import Family, decode_frames, without_prompt
from halovid.models.pictures import add_time, not_a_picture, picture_arguments


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """300 text states, and which of them count, of prompts after the instruction that the pipeline's call has."""
    instruction = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default
    return _encode_after(pipe, prompts, instruction)


def _encode_negative(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """The same without the instruction, as the pipeline encodes negative prompts."""
    return _encode_after(pipe, prompts, None)


def _encode_after(pipe: Any, prompts: list[str], instruction: list[str] | None) -> dict[str, Tensor]:
    states, mask, *_ = pipe.encode_prompt(
        prompts, do_classifier_free_guidance=False, device=pipe.device, complex_human_instruction=instruction
    )
    return {"prompt_embeds": states, "prompt_attention_mask": mask}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    return network(
        noisy.squeeze(2),
        encoder_hidden_states=tensors["prompt_embeds"],
        encoder_attention_mask=tensors["prompt_attention_mask"],
        timestep=timestep * network.config.timestep_scale,
        return_dict=False,
    )[0].unsqueeze(2)


def _geometry(autoencoder: Any) -> LatentGeometry:
    return LatentGeometry(1, 2 ** (len(autoencoder.config.encoder_block_out_channels) - 1), causal_first_frame=False)


def _encode_pictures(autoencoder: Any, video: Tensor) -> Tensor:
    """The autoencoder has no posterior: it gives the latents themselves."""
    return (autoencoder.encode(video.squeeze(2), return_dict=False)[0] * autoencoder.config.scaling_factor).unsqueeze(2)


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=_geometry,
    encode_video=_encode_pictures,
    decode_video=decode_frames,
    unpack=add_time,
    call=lambda config: picture_arguments(config) | {"use_resolution_binning": False},
    arguments=without_prompt,
    encode_negative=_encode_negative,
    problem=not_a_picture,
)
