"""Stable Diffusion 3 and 3.5: a flow whose transformer reads the states of three text encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import Family, decode_frames, encode_frames, frame_geometry, read_settings
from halovid.models.pictures import add_time, not_a_picture, picture_arguments


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """77 tokens of both CLIP encoders, then 256 of T5, all of which the model attends to; and CLIP's pooled vectors."""
    states, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, device=pipe.device, do_classifier_free_guidance=False
    )
    return {"prompt_embeds": states, "pooled_prompt_embeds": pooled}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    texts, pooled = tensors["prompt_embeds"], tensors["pooled_prompt_embeds"]
    return network(noisy.squeeze(2), texts, pooled, timestep, return_dict=False)[0].unsqueeze(2)


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    index = read_settings(folder, "model_index.json")
    if not index.get("text_encoder_3", [None])[0]:
        return "lacks its third text encoder (T5), whose place would be filled with zeros; give a whole pipeline"
    settings = read_settings(folder, "transformer/config.json")
    longest = 8 * settings.get("patch_size", 2) * settings.get("pos_embed_max_size", 96)
    if max(config.height, config.width) > longest:
        return f"knows positions up to {longest} pixels: generator.height x width is {config.height} x {config.width}"
    return not_a_picture(folder, config)


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=frame_geometry,
    side_multiple=2,
    encode_video=encode_frames,
    decode_video=decode_frames,
    unpack=add_time,
    call=picture_arguments,
    problem=_problem,
)
