"""Trains the packaged VAE's decoder further, with the encoder frozen, on latents with noise.

A generator's latents are never exactly those of a clip. A decoder that was trained on exact latents alone shows every
small error in the pixels; one that was trained on noisy latents as well does not. The encoder, and with it the latents
of the clips, stays as it is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from halovid.maths.optimizers import MuonAdamW
from halovid.store.resumable import Stateful
from halovid.world_training.clips import Clips
from halovid.world_training.generator import latent_statistics, load_latents
from halovid.world_training.loop import descend, half_precision, run_steps
from halovid.world_training.vae import reconstruction_loss, use_channels_last

NUM_STEPS = 400
BATCH_SIZE = 4
RATE = 1e-3
WARMUP = 30
MOST_NOISE = 0.4  # in standard deviations of each channel; the level of each clip is drawn evenly from 0 to this
CHECKPOINT_EVERY = 100


def train_decoder(vae: AutoencoderKLWan, clips_folder: Path, folder: Path, seed: int = 0) -> None:
    """Trains `vae`'s decoder to the end, continuing from `folder`'s checkpoint decoder.safetensors."""
    torch.manual_seed(seed)
    clips, latents = Clips(clips_folder), load_latents(clips_folder)
    _, scale = latent_statistics(latents)
    use_channels_last(vae).requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    optimizer = MuonAdamW(vae, RATE)

    def train_step(step: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(latents), (BATCH_SIZE,), generator=generator)
        exact = torch.from_numpy(latents[rows.numpy()]).float()
        level = MOST_NOISE * torch.rand((BATCH_SIZE, 1, 1, 1, 1), generator=generator)
        noisy = exact + level * scale * torch.randn(exact.shape, generator=generator)
        loss, psnr = decoder_loss(vae, noisy, clips.batch(rows))
        descend(loss, vae, optimizer, RATE * min((step + 1) / WARMUP, 1 - step / NUM_STEPS))
        return {"loss": loss.item(), "psnr": psnr.item()}

    parts: dict[str, Stateful] = {"model": vae, "optimizer": optimizer}
    run_steps(folder / "decoder.safetensors", parts, NUM_STEPS, train_step, CHECKPOINT_EVERY)


def decoder_loss(vae: AutoencoderKLWan, latents: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    """`reconstruction_loss` of the decoded latents."""
    with half_precision():
        decoded = vae.decode(latents.contiguous(memory_format=torch.channels_last_3d)).sample
    return reconstruction_loss(decoded.float(), video)
