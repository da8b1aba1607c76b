"""SDXL: a UNet that also reads a pooled text vector and the size of the picture."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.families import stable_diffusion


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """The states of two text encoders side by side, 77 tokens, and the pooled vector of the second one.

    An empty negative prompt is encoded as any other; the plain pipeline does so for "", and takes zeros for none.
    """
    states, _, pooled, _ = pipe.encode_prompt(prompts, device=pipe.device, do_classifier_free_guidance=False)
    return {"prompt_embeds": states, "pooled_prompt_embeds": pooled}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """The UNet is told of a picture that had this size before it was learned from, and of which nothing was cut off."""
    texts = tensors["prompt_embeds"]
    size = config.height, config.width
    sizes = texts.new_tensor([*size, 0, 0, *size]).expand(len(noisy), -1)
    added = {"text_embeds": tensors["pooled_prompt_embeds"], "time_ids": sizes}
    output = network(noisy.squeeze(2), timestep, texts, added_cond_kwargs=added, return_dict=False)[0]
    return output.unsqueeze(2)


FAMILY = dataclasses.replace(stable_diffusion.FAMILY, encode=_encode, predict=_predict)
