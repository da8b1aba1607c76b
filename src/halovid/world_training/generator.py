"""Trains the packaged flow transformers, on latents of the training clips and the frozen text encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from rich.progress import track
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from halovid.maths.optimizers import MuonAdamW
from halovid.models.families.wan import merge_text_padding
from halovid.store.checkpoint import load_checkpoint
from halovid.store.files import atomic_path
from halovid.store.resumable import Stateful
from halovid.world_training.clips import SHARD_SIZE, Clips, caption_path
from halovid.world_training.loop import descend, half_precision, run_steps
from halovid.world_training.plans import Plan, Schedule
from halovid.world_training.text import MAX_TEXT, CaptionReader, build_text_encoder, build_tokenizer

NUM_CHANNELS = 8  # of the latents
TRANSFORMER = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "in_channels": NUM_CHANNELS,
    "out_channels": NUM_CHANNELS,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 384,
    "num_layers": 6,
}


def encode_shards(clips_folder: Path, vae: AutoencoderKLWan, part: int, parts: int) -> None:
    """Writes the missing latents of a part of the shards: float16 [SHARD_SIZE, C, T, h, w], as the VAE gives them."""
    clips = Clips(clips_folder)
    shards = range(part, len(clips.shards), parts)
    for shard in track([k for k in shards if not latents_path(clips_folder, k).exists()], "encoding shards"):
        path = latents_path(clips_folder, shard)
        encoded = []
        for rows in torch.arange(SHARD_SIZE).split(20):
            video = clips.batch(rows + shard * SHARD_SIZE).contiguous(memory_format=torch.channels_last_3d)
            with torch.no_grad(), half_precision():
                encoded.append(vae.encode(video).latent_dist.mode().half())
        with atomic_path(path) as temporary:
            np.save(temporary, torch.cat(encoded).numpy())


def latents_path(folder: Path, shard: int) -> Path:
    """The latents of a shard."""
    return folder / f"latents-{shard:04d}.npy"


def load_latents(folder: Path) -> np.ndarray:
    """The latents of all shards, float16 [n, C, T, h, w]."""
    return np.concatenate([np.load(path) for path in sorted(folder.glob("latents-*.npy"))])


class TextToLatents(nn.Module):
    """The transformer, the frozen text encoder, and the statistics of the latents that the transformer sees.

    latents_mean, latents_std: [C].
    """

    transformer: WanTransformer3DModel
    text_encoder: UMT5EncoderModel
    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.transformer = WanTransformer3DModel(**TRANSFORMER)
        self.text_encoder = build_text_encoder().requires_grad_(False)
        self.register_buffer("latents_mean", torch.zeros(NUM_CHANNELS))
        self.register_buffer("latents_std", torch.ones(NUM_CHANNELS))
        merge_text_padding(self.transformer)

    def forward(self, noisy: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The predicted velocity [B, C, T, h, w]; ids and mask are [B, L]."""
        with torch.no_grad():
            text = self.text_encoder(ids, mask).last_hidden_state * mask[..., None]
        padded = nn.functional.pad(text, (0, 0, 0, MAX_TEXT - text.shape[1]))
        return self.transformer(noisy, timestep, padded, return_dict=False)[0]


def new_text_to_latents(plan: Plan, folder: Path) -> TextToLatents:
    """The model before its training: what the plan starts from, or an untrained transformer and a trained text encoder.

    Args:
        folder: holds text.safetensors, a checkpoint of `train_text_encoder`; not read if the plan starts from weights.
    """
    model = TextToLatents()
    if plan.start is None:
        reader = CaptionReader()
        reader.load_state_dict(load_checkpoint(folder / "text.safetensors")["model"])
        model.text_encoder.load_state_dict(reader.text_encoder.state_dict())
    else:
        text_encoder = UMT5EncoderModel.from_pretrained(plan.start, subfolder="text_encoder")
        transformer = WanTransformer3DModel.from_pretrained(plan.start, subfolder="transformer", dtype=torch.float32)
        model.text_encoder.load_state_dict(text_encoder.state_dict())
        model.transformer.load_state_dict(transformer.state_dict())
    return model


def train_generator(plan: Plan, clips_folder: Path, folder: Path, seed: int = 0) -> None:
    """Trains to the end of the plan's schedule, continuing from `folder`'s checkpoint generator.safetensors."""
    torch.manual_seed(seed)
    data, schedule = TrainingData(clips_folder), plan.schedule
    frame_weight = torch.tensor(plan.frame_weight)
    model = new_text_to_latents(plan, folder)
    model.latents_mean.copy_(data.mean.flatten())
    model.latents_std.copy_(data.std.flatten())
    ema = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.ema)
    )
    optimizer = MuonAdamW(model, schedule.rate, betas=(0.9, 0.98), weight_decay=0.01)

    def train_step(step: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss = flow_loss(model, *data.batch(schedule, generator), frame_weight, generator)
        descend(loss, model, optimizer, schedule.rate_at(step + 1))
        ema.update_parameters(model)
        return {"loss": loss.item()}

    parts: dict[str, Stateful] = {"model": model, "ema": ema, "optimizer": optimizer}
    run_steps(folder / "generator.safetensors", parts, schedule.num_steps, train_step, schedule.checkpoint_every)


def flow_loss(
    model: TextToLatents, clean: Tensor, ids: Tensor, mask: Tensor, frame_weight: Tensor, generator: torch.Generator
) -> Tensor:
    """Squared error of the velocity at a random noise level, more often a high one than a low one.

    Args:
        frame_weight: [T] of each latent frame.
    """
    noise = torch.randn(clean.shape, generator=generator)
    sigma = torch.sigmoid(torch.randn(len(clean), generator=generator) * 1.2 + 0.3)
    level = sigma[:, None, None, None, None]
    velocity = model((1 - level) * clean + level * noise, sigma * 1000, ids, mask)
    return ((velocity - (noise - clean)).square().mean((0, 1, 3, 4)) * frame_weight).mean()


class TrainingData:
    """All latents, [n, C, T, h, w], with the tokens of their captions and the statistics of each channel."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = build_tokenizer()
        self.latents = load_latents(folder)
        self.mean, self.std = latent_statistics(self.latents)
        captions = [
            line
            for k in range(len(self.latents) // SHARD_SIZE)
            for line in caption_path(folder, k).read_text().splitlines()
        ]
        tokens = self.tokenizer(captions, padding=True, return_tensors="pt")
        self.ids, self.mask = tokens.input_ids, tokens.attention_mask
        self.empty = self.tokenizer("", return_tensors="pt").input_ids[0]

    def batch(self, schedule: Schedule, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised latents [B, C, T, h, w], token ids and mask [B, L]; some samples have the empty prompt."""
        rows = torch.randint(len(self.latents), (schedule.batch_size,), generator=generator)
        clean = (torch.from_numpy(self.latents[rows.numpy()]).float() - self.mean) / self.std
        ids, mask = self.ids[rows].clone(), self.mask[rows].clone()
        dropped = torch.rand(schedule.batch_size, generator=generator) < schedule.drop_prompt
        ids[dropped], mask[dropped] = 0, 0
        ids[dropped, : len(self.empty)], mask[dropped, : len(self.empty)] = self.empty, 1
        return clean, ids, mask


def latent_statistics(latents: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, [C, 1, 1, 1]."""
    sample = torch.from_numpy(latents[:2000]).float()
    mean = sample.mean((0, 2, 3, 4))[:, None, None, None]
    return mean, (sample - mean).square().mean((0, 2, 3, 4)).sqrt()[:, None, None, None]
