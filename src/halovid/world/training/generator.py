"""Trains the packaged flow transformer and its text encoder from nothing, on latents of the training clips."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from halovid.checkpoint import load_checkpoint, save_checkpoint
from halovid.files import atomic_path
from halovid.generators.wan import merge_text_padding
from halovid.optimizers import MuonAdamW
from halovid.world.captions import all_words
from halovid.world.training.clips import SHARD_SIZE, Clips, caption_path

MAX_TEXT = 512  # what WanPipeline pads every prompt to
TRANSFORMER = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "in_channels": 8,
    "out_channels": 8,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 384,
    "num_layers": 6,
}
TEXT_ENCODER = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: a warm-up, then a rate that falls to zero in a straight line."""

    num_steps: int = 12_000
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


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the caption grammar; unknown words share one token."""
    words = ["<pad>", "</s>", "<unk>", *all_words()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_TEXT
    )


class TextToLatents(nn.Module):
    """The transformer and its text encoder, trained together."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.transformer = WanTransformer3DModel(**TRANSFORMER)
        self.text_encoder = UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, **TEXT_ENCODER))
        merge_text_padding(self.transformer)

    def forward(self, noisy: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The predicted velocity [B, C, T, h, w]; ids and mask are [B, L]."""
        text = self.text_encoder(ids, mask).last_hidden_state * mask[..., None]
        padded = nn.functional.pad(text, (0, 0, 0, MAX_TEXT - text.shape[1]))
        return self.transformer(noisy, timestep, padded, return_dict=False)[0]


def train_generator(clips_folder: Path, folder: Path, schedule: Schedule, seed: int = 0) -> None:
    """Trains to the end of the schedule, continuing from `folder`'s checkpoint; one JSON log line per 50 steps."""
    torch.manual_seed(seed)
    data = TrainingData(clips_folder)
    model = TextToLatents(len(data.tokenizer))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(schedule.ema)
    )
    optimizer = MuonAdamW(model, schedule.rate, betas=(0.9, 0.98), weight_decay=0.01)
    checkpoint, step = folder / "generator.safetensors", 0
    if checkpoint.exists():
        state = load_checkpoint(checkpoint)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    started, losses = time.time(), []
    while step < schedule.num_steps:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss = flow_loss(model, *data.batch(schedule, generator), generator)
        optimizer.set_rate(schedule.rate_at(step + 1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            line = {"step": step, "loss": sum(losses[-50:]) / 50, "seconds": time.time() - started}
            with (folder / "generator.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            Console().print(line)
        if step % schedule.checkpoint_every == 0 or step == schedule.num_steps:
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(checkpoint, state | {"step": step, "mean": data.mean.flatten(), "std": data.std.flatten()})


def flow_loss(model: TextToLatents, clean: Tensor, ids: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error of the velocity at a random noise level, more often a high one than a low one."""
    noise = torch.randn(clean.shape, generator=generator)
    sigma = torch.sigmoid(torch.randn(len(clean), generator=generator) * 1.2 + 0.3)
    level = sigma[:, None, None, None, None]
    velocity = model((1 - level) * clean + level * noise, sigma * 1000, ids, mask)
    return (velocity - (noise - clean)).square().mean()


class TrainingData:
    """All latents, [n, C, T, h, w], with the tokens of their captions and the statistics of each channel."""

    def __init__(self, folder: Path) -> None:
        shards = sorted(folder.glob("latents-*.npy"))
        self.tokenizer = build_tokenizer()
        self.latents = np.concatenate([np.load(path) for path in shards])
        self.mean, self.std = latent_statistics(self.latents)
        captions = [line for k in range(len(shards)) for line in caption_path(folder, k).read_text().splitlines()]
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
