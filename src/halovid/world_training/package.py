"""Assembles a packaged `WanPipeline` folder from trained checkpoints, in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline

from halovid.store.checkpoint import load_checkpoint
from halovid.store.files import write_json
from halovid.world_training.generator import TextToLatents
from halovid.world_training.text import build_tokenizer
from halovid.world_training.vae import LAYOUT, build_vae


def load_vae(checkpoint: Path) -> AutoencoderKLWan:
    """The VAE of a training checkpoint."""
    vae = build_vae()
    vae.load_state_dict(load_checkpoint(checkpoint)["model"])
    return vae.eval().requires_grad_(False)


def load_text_to_latents(checkpoint: Path) -> TextToLatents:
    """The averaged generator of a training checkpoint."""
    ema = torch.optim.swa_utils.AveragedModel(TextToLatents())
    ema.load_state_dict(load_checkpoint(checkpoint)["ema"])
    return cast(TextToLatents, ema.module.eval())


def write_pipeline(vae: AutoencoderKLWan, model: TextToLatents, folder: Path) -> None:
    """Writes the pipeline folder; the latents' statistics become part of the VAE's configuration."""
    statistics = {"latents_mean": model.latents_mean.tolist(), "latents_std": model.latents_std.tolist()}
    packed = AutoencoderKLWan(**LAYOUT | statistics)
    packed.load_state_dict(vae.state_dict())
    for block in model.transformer.blocks:
        block.attn2.set_processor(type(block.attn1.processor)())
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, num_train_timesteps=1000
    )
    pipe = WanPipeline(build_tokenizer(), model.text_encoder, packed, scheduler, model.transformer)
    shutil.rmtree(folder, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(folder)
    config = folder / "text_encoder" / "config.json"  # transformers would load what is stored as half in half
    write_json(config, json.loads(config.read_text()) | {"dtype": "float32"})
