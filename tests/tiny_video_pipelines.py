"""Tiny random pipelines of text-to-video families, in the released layouts."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    ClassifierFreeGuidance,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
)
from transformers import (
    ByT5Tokenizer,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
)

from halovid.world_training.text import build_tokenizer
from tiny_parts import TEXT_WIDTH, TinyFamily, clip_encoder, clip_tokenizer, t5_encoder

LANGUAGE = {  # three layers, since the pipelines read what the last but two gives
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def one_by_one(pipe: Any) -> None:
    """Has the autoencoder do each clip alone: in diffusers 0.42 some fail on two."""
    pipe.vae.enable_slicing()


def ltx_vae(version: str) -> AutoencoderKLLTXVideo:
    """The autoencoder of 0.9.0, or that of 0.9.1, which decodes at a noise level and injects noise."""
    layout: dict[str, Any] = {
        "latent_channels": 8,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "decoder_inject_noise": (False,) * 5,
    }
    if version != "0.9.0":
        layout |= {
            "decoder_block_out_channels": (8, 16, 32),
            "decoder_layers_per_block": (1, 1, 1, 1),
            "decoder_spatio_temporal_scaling": (True, True, True),
            "decoder_inject_noise": (False, True, True, True),
            "upsample_residual": (True, True, True),
            "upsample_factor": (2, 2, 2),
            "timestep_conditioning": True,
        }
    vae = AutoencoderKLLTXVideo(**layout)
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2)
    return vae


def ltx_transformer() -> LTXVideoTransformer3DModel:
    return LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=TEXT_WIDTH,
    )


def tiny_ltx(version: str) -> DiffusionPipeline:
    """LTX-Video, whose scheduler shifts by the number of tokens and ends above the clip."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    return LTXPipeline(scheduler, ltx_vae(version), t5_encoder(tokenizer), tokenizer, ltx_transformer())


def tiny_ltx_condition() -> DiffusionPipeline:
    """LTX-Video from 0.9.5 on, whose pipeline brings its own noise levels."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    scheduler = FlowMatchEulerDiscreteScheduler()
    return LTXConditionPipeline(scheduler, ltx_vae("0.9.1"), t5_encoder(tokenizer), tokenizer, ltx_transformer())


def tiny_hunyuan_video() -> DiffusionPipeline:
    """HunyuanVideo 1.0: Llama's states after an instruction, CLIP's pooled vector, guidance as an input."""
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = build_tokenizer(), clip_tokenizer()
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        rope_axes_dim=(4, 6, 6),
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2
    )
    text_encoder = LlamaModel(LlamaConfig(vocab_size=len(tokenizer), **LANGUAGE))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return HunyuanVideoPipeline(
        text_encoder, tokenizer, transformer, vae, scheduler, clip_encoder(tokenizer_2), tokenizer_2
    )


def tiny_hunyuan_video_15() -> DiffusionPipeline:
    """HunyuanVideo 1.5: Qwen's states, ByT5's for quoted words, a guider."""
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = build_tokenizer(), ByT5Tokenizer()
    # with as many tokens before the prompt as the pipeline cuts off
    tokenizer.chat_template = "{{ '. ' * 17 }}{% for message in messages %}{{ message['content'] }} {% endfor %}"
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=1,
        attention_head_dim=8,
        num_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=TEXT_WIDTH,
        text_embed_2_dim=TEXT_WIDTH,
        image_embed_dim=4,
        rope_axes_dim=(2, 2, 4),
        task_type="t2v",
    )
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    text_encoder = Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(vocab_size=len(tokenizer), rope_parameters=rope, **LANGUAGE)
    )
    return HunyuanVideo15Pipeline(
        text_encoder,
        tokenizer,
        transformer,
        vae,
        FlowMatchEulerDiscreteScheduler(shift=5.0),
        t5_encoder(tokenizer_2),
        tokenizer_2,
        ClassifierFreeGuidance(guidance_scale=6.0),
    )


def tiny_mochi() -> DiffusionPipeline:
    """Mochi 1: time runs from noise to clip."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        add_attention_block=(False, False, False, False, True),
    )
    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=TEXT_WIDTH,
        time_embed_dim=8,
    )
    transformer.pos_frequencies.data.normal_()  # else no position would count
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return MochiPipeline(scheduler, vae, t5_encoder(tokenizer), tokenizer, transformer)


VIDEO: dict[str, TinyFamily] = {
    "LTXPipeline": TinyFamily(lambda: tiny_ltx("0.9.0"), (17, 64, 96)),
    "LTXPipeline-0.9.1": TinyFamily(lambda: tiny_ltx("0.9.1"), (17, 64, 96)),
    "LTXConditionPipeline": TinyFamily(tiny_ltx_condition, (17, 64, 96)),
    "HunyuanVideoPipeline": TinyFamily(tiny_hunyuan_video, (9, 32, 48), {"negative_prompt": ""}),
    "HunyuanVideo15Pipeline": TinyFamily(tiny_hunyuan_video_15, (9, 32, 48), prepare=one_by_one),
    "MochiPipeline": TinyFamily(tiny_mochi, (13, 32, 48)),
}
