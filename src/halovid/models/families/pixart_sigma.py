"""PixArt-Sigma: a transformer over the latents of pictures that predicts epsilon, and a variance that is not used.

Diffusers 0.42 has no `load_lora_weights` for it: a trained adapter is used after `halovid merge`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import (
    Family,
    decode_frames,
    encode_frames,
    encode_with_mask,
    frame_geometry,
    without_prompt,
)
from halovid.models.pictures import add_time, not_a_picture, picture_arguments


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    output = network(
        noisy.squeeze(2),
        encoder_hidden_states=tensors["prompt_embeds"],
        encoder_attention_mask=tensors["prompt_attention_mask"],
        timestep=timestep,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]
    return output[:, : noisy.shape[1]].unsqueeze(2)  # the other half is the variance


def _call(config: GeneratorConfig) -> dict[str, Any]:
    """Sizes are taken as they are, and texts too: cleaning them would depend on the packages that are installed."""
    return picture_arguments(config) | {"use_resolution_binning": False, "clean_caption": False}


FAMILY = Family(
    encode=encode_with_mask,  # 300 tokens of T5
    predict=_predict,
    geometry=frame_geometry,
    side_multiple=2,
    encode_video=encode_frames,
    decode_video=decode_frames,
    unpack=add_time,
    call=_call,
    arguments=without_prompt,
    problem=not_a_picture,
)
