"""PixArt-Sigma: a transformer over the latents of pictures that predicts epsilon, and a variance that is not used.

Diffusers 0.42 has no `load_lora_weights` for it: a trained adapter is used after `halovid merge`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import Family, decode_frames, encode_frames
from halovid.models.pictures import add_time, not_a_picture, picture_arguments, picture_geometry


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """300 text states of T5, and which of them count."""
    states, mask, *_ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, device=pipe.device)
    return {"prompt_embeds": states, "prompt_attention_mask": mask}


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
    encode=_encode,
    predict=_predict,
    geometry=picture_geometry,
    side_multiple=2,
    encode_video=encode_frames,
    decode_video=decode_frames,
    unpack=add_time,
    call=_call,
    # the call has a text as the default of its negative prompt, which it refuses beside tensors
    arguments=lambda tensors: tensors | {"prompt": None},
    problem=not_a_picture,
)
