"""HunyuanVideo 1.0: a flow whose guidance scale is an input of the network; it takes no negative prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import Family, causal_geometry, read_settings


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Llama's states of 256 tokens after the pipeline's instruction, which of them count, and CLIP's pooled vector."""
    states, pooled, mask = pipe.encode_prompt(prompts)
    return {"prompt_embeds": states, "pooled_prompt_embeds": pooled, "prompt_attention_mask": mask}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    return network(
        noisy,
        timestep,
        tensors["prompt_embeds"],
        tensors["prompt_attention_mask"],
        tensors["pooled_prompt_embeds"],
        guidance=torch.full_like(timestep, config.guidance_scale * 1000),
        return_dict=False,
    )[0]


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    settings = read_settings(folder, "transformer/config.json")
    if settings.get("guidance_embeds") is False:
        return "has a network that is not told the guidance scale; only those that are told it are driven so far"
    if config.negative_prompt:
        return "takes no negative prompt: leave generator.negative_prompt empty"
    return None


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=causal_geometry,
    side_multiple=2,
    guided=lambda config: False,
    problem=_problem,
)
