"""Tiny random pipelines of Wan and its relatives."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import UMT5Config, UMT5EncoderModel

from halovid.world_training.text import build_tokenizer
from halovid.world_training.vae import LAYOUT
from tiny_parts import TEXT_WIDTH, TinyFamily

NETWORK: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}


def umt5_encoder(tokenizer: Any) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def tiny_wan() -> DiffusionPipeline:
    """Wan 2.1 in the packaged world's layout."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = umt5_encoder(tokenizer)
    vae = AutoencoderKLWan(**LAYOUT | {"base_dim": 8})
    channels = LAYOUT["z_dim"]
    transformer = WanTransformer3DModel(in_channels=channels, out_channels=channels, **NETWORK)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    return WanPipeline(tokenizer, text_encoder, vae, scheduler, transformer)


def tiny_wan_ti2v() -> DiffusionPipeline:
    """Wan 2.2 TI2V-5B: an autoencoder that divides sides by 16, and a timestep for each token."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = umt5_encoder(tokenizer)
    vae = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=8,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=torch.randn(8).tolist(),
        latents_std=torch.rand(8).add(0.5).tolist(),
    )
    transformer = WanTransformer3DModel(in_channels=8, out_channels=8, **NETWORK)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    return WanPipeline(tokenizer, text_encoder, vae, scheduler, transformer, expand_timesteps=True)


def tiny_skyreels_v2() -> DiffusionPipeline:
    """SkyReels-V2 text-to-video, with Wan 2.1's autoencoder."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    vae = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    transformer = SkyReelsV2Transformer3DModel(**NETWORK)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)
    return SkyReelsV2Pipeline(tokenizer, umt5_encoder(tokenizer), transformer, vae, scheduler)


WAN: dict[str, TinyFamily] = {
    "WanPipeline": TinyFamily(tiny_wan, (9, 32, 48)),
    "WanPipeline-TI2V": TinyFamily(tiny_wan_ti2v, (9, 64, 96)),
    "SkyReelsV2Pipeline": TinyFamily(tiny_skyreels_v2, (9, 32, 48)),
}
