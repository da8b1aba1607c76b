"""Wan 2.1 and Wan 2.2 TI2V-5B: any `WanPipeline` with one transformer, from the packaged world to 14B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor, nn

from halovid.config.run import GeneratorConfig
from halovid.maths.grid import LatentGeometry
from halovid.models.family import Family, read_settings

_MAX_TEXT = 512  # tokens, WanPipeline's own default


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Text states of 512 tokens; the rows after a prompt's end are zero."""
    states, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=_MAX_TEXT)
    return {"prompt_embeds": states}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """TI2V-5B is told the timestep of each token, as it may be given a first frame; here all of a clip's are alike."""
    if pipe.config.get("expand_timesteps"):
        frame, rows, columns = network.config.patch_size
        frames, height, width = noisy.shape[2:]
        timestep = timestep[:, None].expand(-1, (frames // frame) * (height // rows) * (width // columns))
    output: Tensor = network(noisy, timestep, tensors["prompt_embeds"], return_dict=False)[0]
    return output


def _geometry(vae: Any) -> LatentGeometry:
    return LatentGeometry(vae.config.scale_factor_temporal, vae.config.scale_factor_spatial, causal_first_frame=True)


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    index = read_settings(folder, "model_index.json")
    one_expert = index.get("transformer", [None])[0] and not index.get("transformer_2", [None])[0]
    if one_expert:
        return None
    return "has two transformers (Wan 2.2 A14B); only pipelines with one (Wan 2.1, TI2V-5B) are driven so far"


class TextPadding:
    """Makes cross-attention read one padding row instead of hundreds of equal ones, with the same output.

    Wan pads every prompt with zero rows to a fixed length and attends to all of them. Equal rows give equal keys
    and values, so n of them weigh as much as one whose logit is raised by log n.
    """

    def __init__(self) -> None:
        self.key_bias: Tensor | None = None

    def trim(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Forward pre-hook of the transformer: cuts the padding of `encoder_hidden_states`, and sets `key_bias`."""
        text = args[2] if len(args) > 2 else kwargs["encoder_hidden_states"]
        lengths = text.shape[1] - (text.flip(1) != 0).any(-1).int().argmax(1)
        lengths = torch.where((text != 0).any(-1).any(-1), lengths, torch.zeros_like(lengths))
        num_kept = min(int(lengths.max()) + 1, text.shape[1])
        is_padding = torch.arange(num_kept, device=text.device) >= lengths[:, None]
        rows_per_kept_pad = (text.shape[1] - lengths) / (num_kept - lengths).clamp(min=1)
        self.key_bias = torch.where(is_padding, rows_per_kept_pad.log()[:, None], 0.0)[:, None, None].to(text.dtype)
        if len(args) > 2:
            return (*args[:2], text[:, :num_kept], *args[3:]), kwargs
        return args, kwargs | {"encoder_hidden_states": text[:, :num_kept]}

    def __call__(self, attn: WanAttention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: object) -> Tensor:
        """Attention processor of `attn2`: diffusers' own computation plus the bias."""
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        value = attn.to_v(encoder_hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=self.key_bias)
        return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))


def merge_text_padding(transformer: WanTransformer3DModel) -> None:
    """Makes a text-to-video transformer skip its text padding, in place, without changing its output."""
    padding = TextPadding()
    for block in transformer.blocks:
        block.attn2.set_processor(padding)
    transformer.register_forward_pre_hook(padding.trim, with_kwargs=True)


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=_geometry,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"),
    side_multiple=2,
    prepare=lambda pipe: merge_text_padding(pipe.transformer),
    problem=_problem,
)
