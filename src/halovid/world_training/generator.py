"""Trains the packaged flow transformer from nothing, on latents of the training clips and the frozen text encoder."""

from __future__ import annotations

from dataclasses import dataclass
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
from halovid.world_training.loop import descend, run_steps
from halovid.world_training.text import MAX_TEXT, CaptionReader, build_text_encoder, build_tokenizer

NUM_CHANNELS = 8  # of the latents
FRAME_WEIGHT = (1.4, 1.0, 0.8, 0.8)  # how much an equal error of each latent frame shows in the decoded pixels; mean 1
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


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: a warm-up, then a rate that falls to zero in a straight line."""

    num_steps: int = 28_000
    batch_size: int = 16
    rate: float = 2e-3
    warmup: int = 300
    drop_prompt: float = 0.1  # share of samples with the empty prompt, for classifier-free guidance
    ema: float = 0.998
    checkpoint_every: int = 250

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        return self.rate * min(step / self.warmup, 1 - step / self.num_steps)


def encode_shards(clips_folder: Path, vae: AutoencoderKLWan, part: int, parts: int) -> None:
    """Writes the missing latents of a part of the shards: float16 [SHARD_SIZE, C, T, h, w], as the VAE gives them."""
    clips = Clips(clips_folder)
    shards = range(part, len(clips.shards), parts)
    for shard in track([k for k in shards if not latents_path(clips_folder, k).exists()], "encoding shards"):
        path = latents_path(clips_folder, shard)
        encoded = []
        for rows in torch.arange(SHARD_SIZE).split(20):
            video = clips.batch(rows + shard * SHARD_SIZE, 13, 0).contiguous(memory_format=torch.channels_last_3d)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
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


def load_text_encoder(checkpoint: Path) -> dict[str, Tensor]:
    """The weights of the text encoder in a checkpoint of `train_text_encoder`."""
    reader = CaptionReader()
    reader.load_state_dict(load_checkpoint(checkpoint)["model"])
    return reader.text_encoder.state_dict()


def train_generator(clips_folder: Path, folder: Path, schedule: Schedule, seed: int = 0) -> None:
    """Trains to the end of the schedule, continuing from `folder`'s checkpoint generator.safetensors."""
    torch.manual_seed(seed)
    data = TrainingData(clips_folder)
    model = TextToLatents()
    model.text_encoder.load_state_dict(load_text_encoder(folder / "text.safetensors"))
    model.latents_mean.copy_(data.mean.flatten())
    model.latents_std.copy_(data.std.flatten())
    ema = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.ema)
    )
    optimizer = MuonAdamW(model, schedule.rate, betas=(0.9, 0.98), weight_decay=0.01)

    def train_step(step: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss = flow_loss(model, *data.batch(schedule, generator), generator)
        descend(loss, model, optimizer, schedule.rate_at(step + 1))
        ema.update_parameters(model)
        return {"loss": loss.item()}

    parts: dict[str, Stateful] = {"model": model, "ema": ema, "optimizer": optimizer}
    run_steps(folder / "generator.safetensors", parts, schedule.num_steps, train_step, schedule.checkpoint_every)


def flow_loss(model: TextToLatents, clean: Tensor, ids: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error of the velocity at a random noise level, more often a high one than a low one, by FRAME_WEIGHT."""
    noise = torch.randn(clean.shape, generator=generator)
    sigma = torch.sigmoid(torch.randn(len(clean), generator=generator) * 1.2 + 0.3)
    level = sigma[:, None, None, None, None]
    velocity = model((1 - level) * clean + level * noise, sigma * 1000, ids, mask)
    return ((velocity - (noise - clean)).square().mean((0, 1, 3, 4)) * torch.tensor(FRAME_WEIGHT)).mean()


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
