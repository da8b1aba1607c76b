"""FLUX.2 klein: a flow over squares of 2 x 2 cells of its autoencoder, which are the latent cells here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.maths.grid import LatentGeometry
from halovid.models.family import LORA_TARGETS, Family, read_settings
from halovid.models.pictures import not_a_picture, picture_arguments


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """512 text states, those of three layers side by side, all of which the model attends to."""
    return {"prompt_embeds": pipe.encode_prompt(prompts, device=pipe.device)[0]}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """The network counts time from 0 to 1."""
    texts = tensors["prompt_embeds"]
    output = network(
        hidden_states=noisy.flatten(2).transpose(1, 2),
        encoder_hidden_states=texts,
        timestep=timestep / 1000,
        img_ids=pipe._prepare_latent_ids(noisy.squeeze(2)).to(noisy.device),
        txt_ids=pipe._prepare_text_ids(texts).to(noisy.device),
        guidance=None,
        return_dict=False,
    )[0]
    return output.transpose(1, 2).unflatten(2, noisy.shape[2:])


def _geometry(vae: Any) -> LatentGeometry:
    return LatentGeometry(1, 2 ** len(vae.config.block_out_channels), causal_first_frame=False)


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the four cells of a square, [4 C, 1, 1] each."""
    variance = vae.bn.running_var + vae.config.batch_norm_eps
    return vae.bn.running_mean[:, None, None], variance.sqrt()[:, None, None]


def _join_squares(vae: Any, cells: Tensor) -> Tensor:
    """The autoencoder's own latents [B, C, 2 h, 2 w] as normalised ones, [B, 4 C, 1, h, w]."""
    mean, std = _statistics(vae)
    squares = cells.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    return ((squares - mean) / std).unsqueeze(2)


def _part_squares(vae: Any, latents: Tensor) -> Tensor:
    """The inverse of `_join_squares`."""
    mean, std = _statistics(vae)
    squares = (latents.squeeze(2) * std + mean).unflatten(1, (-1, 2, 2))
    return squares.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    index = read_settings(folder, "model_index.json")
    if index.get("is_distilled") and config.guidance_scale > 1:
        return f"was distilled without guidance: generator.guidance_scale is {config.guidance_scale:g}, set it to 1"
    return not_a_picture(folder, config)


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=_geometry,
    lora_targets=(*LORA_TARGETS, "linear_in", "linear_out", "to_qkv_mlp_proj"),
    encode_video=lambda vae, video: _join_squares(vae, vae.encode(video.squeeze(2)).latent_dist.mode()),
    decode_video=lambda vae, latents: vae.decode(_part_squares(vae, latents), return_dict=False)[0].unsqueeze(2),
    unpack=lambda pipe, latents, shape: _join_squares(pipe.vae, latents),
    call=picture_arguments,
    problem=_problem,
)
