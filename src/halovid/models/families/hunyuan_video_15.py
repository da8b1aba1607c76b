"""HunyuanVideo 1.5: a flow over latents beside which an image-to-video model would see a picture.

Its pipeline keeps the guidance in a component of its own. Diffusers 0.42 has no loader of adapters for the pipeline;
its network's `load_lora_adapter(folder, prefix="transformer")` reads ours, and `halovid merge` needs neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ClassifierFreeGuidance
from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import (
    Family,
    call_arguments,
    causal_geometry,
    clip_by_clip,
    decode_clips,
    encode_clips,
    read_settings,
)


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Qwen's states, ByT5's states of quoted words, and which of them count: at most 1000 and 256 tokens."""
    states, mask, quoted_states, quoted_mask = pipe.encode_prompt(prompts, batch_size=len(prompts))
    length, quoted_length = _longest(mask), _longest(quoted_mask)
    return {
        "prompt_embeds": states[:, :length],
        "prompt_embeds_mask": mask[:, :length],
        "prompt_embeds_2": quoted_states[:, :quoted_length],
        "prompt_embeds_mask_2": quoted_mask[:, :quoted_length],
    }


def _longest(mask: Tensor) -> int:
    """How many tokens hold all that count, at least one. The pipeline pads all texts; the network reads no padding."""
    counts = mask.any(0).nonzero()
    return int(counts.max()) + 1 if len(counts) else 1


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """Zeros stand for the latents of a picture and their mask, and a token of zeros for those of an image encoder."""
    batch, channels = noisy.shape[:2]
    no_picture = noisy.new_zeros(batch, channels + 1, *noisy.shape[2:])
    return network(
        torch.cat([noisy, no_picture], dim=1),
        timestep.to(noisy.dtype),  # as the pipeline does: this network computes in the timestep's number format
        tensors["prompt_embeds"],
        tensors["prompt_embeds_mask"],
        encoder_hidden_states_2=tensors["prompt_embeds_2"],
        encoder_attention_mask_2=tensors["prompt_embeds_mask_2"],
        image_embeds=noisy.new_zeros(batch, 1, network.config.image_embed_dim),
        return_dict=False,
    )[0]


def _call(config: GeneratorConfig) -> dict[str, Any]:
    return {name: value for name, value in call_arguments(config).items() if name != "guidance_scale"}


def _set_guidance(pipe: Any, config: GeneratorConfig) -> None:
    pipe.guider = ClassifierFreeGuidance(max(config.guidance_scale, 1.0))  # 1 is none


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    index = read_settings(folder, "model_index.json")
    if index["guider"][1] != ClassifierFreeGuidance.__name__:
        return f"guides by {index['guider'][1]}; only {ClassifierFreeGuidance.__name__} is driven so far"
    guider = read_settings(folder, "guider/guider_config.json")
    plain = ClassifierFreeGuidance().config
    changed = [name for name in plain if name != "guidance_scale" and guider.get(name, plain[name]) != plain[name]]
    if changed:
        return f"has a guider with other settings than the usual ({', '.join(changed)}), which are not driven so far"
    settings = read_settings(folder, "transformer/config.json")
    if settings.get("use_meanflow"):
        return "is told two noise levels at once (use_meanflow), which is not driven so far"
    return None


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=causal_geometry,
    channels=lambda network: network.config.out_channels,
    encode_video=clip_by_clip(encode_clips),  # in diffusers 0.42 this autoencoder fails on two
    decode_video=clip_by_clip(decode_clips),
    call=_call,
    configure=_set_guidance,
    problem=_problem,
)
