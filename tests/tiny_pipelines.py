"""Tiny random pipelines in the released layouts, one builder per family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    DiffusionPipeline,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from halovid.world_training.text import build_tokenizer
from halovid.world_training.vae import LAYOUT

TEXT_WIDTH = 16


@dataclass(frozen=True)
class TinyFamily:
    """A family's tiny pipeline, and a size of clips that it makes: frames, height, width."""

    build: Callable[[], DiffusionPipeline]
    size: tuple[int, int, int]


def tiny_wan() -> DiffusionPipeline:
    """Wan 2.1 in the packaged world's layout."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    vae = AutoencoderKLWan(**LAYOUT | {"base_dim": 8})
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=LAYOUT["z_dim"],
        out_channels=LAYOUT["z_dim"],
        text_dim=TEXT_WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    return WanPipeline(tokenizer, text_encoder, vae, scheduler, transformer)


def tiny_cogvideox() -> DiffusionPipeline:
    """CogVideoX 5B: rotary positions, v-prediction with zero SNR and a shifted SNR."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    kinds = ("CogVideoXDownBlock3D",) * 4, ("CogVideoXUpBlock3D",) * 4
    vae = AutoencoderKLCogVideoX(
        down_block_types=kinds[0],
        up_block_types=kinds[1],
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        scaling_factor=0.7,
    )
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=TEXT_WIDTH,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        use_rotary_positional_embeddings=True,
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    return CogVideoXPipeline(tokenizer, text_encoder, vae, transformer, scheduler)


def tiny_text_to_video_sd() -> DiffusionPipeline:
    """ModelScope's text-to-video: a 3D UNet that predicts epsilon."""
    torch.manual_seed(0)
    tokenizer = _clip_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=2,
    )
    unet = UNet3DConditionModel(
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return TextToVideoSDPipeline(vae, text_encoder, tokenizer, unet, scheduler)


def _clip_tokenizer() -> CLIPTokenizer:
    """Letters as tokens, each also as the end of a word."""
    letters = [*"abcdefghijklmnopqrstuvwxyz,.-0123456789"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)


TINY: dict[str, TinyFamily] = {
    "WanPipeline": TinyFamily(tiny_wan, (9, 32, 48)),
    "CogVideoXPipeline": TinyFamily(tiny_cogvideox, (9, 32, 48)),
    "TextToVideoSDPipeline": TinyFamily(tiny_text_to_video_sd, (5, 32, 48)),
}
