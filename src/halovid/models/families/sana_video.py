"""SANA-Video: a flow over the latents of Wan 2.1's autoencoder; prompts are read after an instruction, as Sana's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.families import sana, wan
from halovid.models.family import call_arguments, decode_clips, encode_clips, read_settings


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    return network(
        noisy,
        encoder_hidden_states=tensors["prompt_embeds"],
        encoder_attention_mask=tensors["prompt_attention_mask"],
        timestep=timestep,
        return_dict=False,
    )[0]


def _call(config: GeneratorConfig) -> dict[str, Any]:
    """Sizes are taken as they are; the pipeline has its own word for their number of frames."""
    arguments = call_arguments(config)
    return arguments | {"frames": arguments.pop("num_frames"), "use_resolution_binning": False}


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    index = read_settings(folder, "model_index.json")
    if index["vae"][1] != "AutoencoderKLWan":
        return f"has an autoencoder of class {index['vae'][1]}; only those with AutoencoderKLWan are driven so far"
    return None


FAMILY = dataclasses.replace(
    sana.FAMILY,
    predict=_predict,
    geometry=wan.FAMILY.geometry,
    side_multiple=4,  # the pipeline takes multiples of 32 pixels
    encode_video=encode_clips,
    decode_video=decode_clips,
    unpack=lambda pipe, latents, shape: latents,
    call=_call,
    problem=_problem,
)
