"""Z-Image: a flow whose network counts time from noise to picture, and reads texts of unequal lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from halovid.config.run import GeneratorConfig
from halovid.models.family import LORA_TARGETS, Family, decode_frames, encode_frames, frame_geometry
from halovid.models.pictures import add_time, not_a_picture, picture_arguments


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Text states of the longest prompt's length, at most 512, and which of them count."""
    # a copy, since the pipeline writes its chat template into the list
    states, _ = pipe.encode_prompt(list(prompts), pipe.device, do_classifier_free_guidance=False)
    masks = [torch.ones(len(text), dtype=torch.long, device=text.device) for text in states]
    return {
        "prompt_embeds": pad_sequence(states, batch_first=True),
        "prompt_embeds_mask": pad_sequence(masks, batch_first=True),
    }


def _texts(tensors: dict[str, Tensor]) -> list[Tensor]:
    """The states that count of each text, [length, D]."""
    pairs = zip(tensors["prompt_embeds"], tensors["prompt_embeds_mask"], strict=True)
    return [states[mask.bool()] for states, mask in pairs]


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """The network's own output is the velocity from noise to picture."""
    output = network(list(noisy), 1 - timestep / 1000, _texts(tensors), return_dict=False)[0]
    return -torch.stack(output)


def _call(config: GeneratorConfig) -> dict[str, Any]:
    """The pipeline counts its guidance from 0: what it calls 4 leads as far away as 5 does elsewhere."""
    return picture_arguments(config) | {"guidance_scale": config.guidance_scale - 1}


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=frame_geometry,
    lora_targets=(*LORA_TARGETS, "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
    side_multiple=2,
    encode_video=encode_frames,
    decode_video=decode_frames,
    unpack=add_time,
    call=_call,
    arguments=lambda tensors: {"prompt_embeds": _texts(tensors)},
    problem=not_a_picture,
)
