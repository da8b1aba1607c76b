"""Mochi 1: a flow whose network counts time from noise to clip and gives the velocity in that direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import Family, causal_geometry


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """T5's states of 256 tokens and which of them count; each prompt alone, since an empty one would blank a batch."""
    encoded = [pipe.encode_prompt([prompt], do_classifier_free_guidance=False)[:2] for prompt in prompts]
    states, masks = zip(*encoded, strict=True)
    return {"prompt_embeds": torch.cat(states), "prompt_attention_mask": torch.cat(masks)}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    return -network(
        noisy,
        tensors["prompt_embeds"],
        1000 - timestep,
        tensors["prompt_attention_mask"],
        return_dict=False,
    )[0]


FAMILY = Family(encode=_encode, predict=_predict, geometry=causal_geometry, side_multiple=2)
