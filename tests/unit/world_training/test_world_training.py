"""The commands that train what the package carries: at sizes of a few clips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from halovid.store.checkpoint import load_checkpoint
from halovid.world.captions import parse_caption
from halovid.world_training import clips, generator, package, text, vae

NUM_CLIPS = 4


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with two shards of two rendered clips."""
    for module in (clips, generator):
        monkeypatch.setattr(module, "SHARD_SIZE", NUM_CLIPS // 2)
    clips.render_shards(tmp_path / "clips", range(2))
    return tmp_path


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VAE training of four steps with a checkpoint after every second."""
    phases = (vae.Phase(2, 1, 2, rate=1e-3, final_rate=1e-3), vae.Phase(4, 5, 1, rate=1e-3, final_rate=1e-4))
    monkeypatch.setattr(vae, "PHASES", phases)
    monkeypatch.setattr(vae, "CHECKPOINT_EVERY", 2)


def kill_at(call: int, module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the call-th call of module.name a kill."""
    real, calls = getattr(module, name), 0

    def wrapped(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, name, wrapped)


def assert_resumes(train: Callable[[Path], None], folder: Path, name: str, kill: Callable[[], None]) -> None:
    """A training that is killed and called again ends like one that is not."""
    whole, killed = folder / "whole", folder / "killed"
    whole.mkdir(exist_ok=True)
    killed.mkdir(exist_ok=True)
    train(whole)
    kill()
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    train(killed)
    first, second = (load_checkpoint(path / name)["model"] for path in (whole, killed))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_shards_hold_clips_and_captions_and_are_rendered_once(work: Path) -> None:
    shard = np.load(clips.shard_path(work / "clips", 1))
    assert shard.shape == (2, 3, 13, 64, 64) and shard.dtype == np.uint8
    captions = clips.caption_path(work / "clips", 1).read_text().splitlines()
    assert len(captions) == 2
    assert all(parse_caption(caption) for caption in captions)
    assert (torch.from_numpy(shard[0]) == clips.render_training_clip(2)[0]).all()
    before = clips.shard_path(work / "clips", 1).stat().st_mtime_ns
    clips.render_shards(work / "clips", range(2))
    assert clips.shard_path(work / "clips", 1).stat().st_mtime_ns == before


def test_a_batch_is_a_window_of_the_clips_asked_for(work: Path) -> None:
    data = clips.Clips(work / "clips")
    assert len(data) == NUM_CLIPS
    batch = data.batch(torch.tensor([3, 0]), num_frames=5, first=2)
    whole = clips.render_training_clip(3)[0]
    assert torch.equal(batch[0], whole[:, 2:7].float() / 127.5 - 1)


def test_no_clips_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="render them first"):
        clips.Clips(tmp_path)


def test_the_vae_continues_where_it_was_killed(work: Path, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_resumes(
        lambda folder: vae.train_vae(work / "clips", folder),
        work,
        "vae.safetensors",
        lambda: kill_at(4, vae, "vae_loss", monkeypatch),
    )


def test_every_phase_ends_at_its_own_rate(short: None) -> None:
    assert vae.learning_rate(0) == pytest.approx(1e-3 / 100)  # warm-up
    assert vae.learning_rate(3) == pytest.approx(4e-2 * (1e-4 + 9e-4 * 0.5))


def test_the_text_encoder_continues_where_it_was_killed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(text, "BATCH_SIZE", 3)
    assert_resumes(
        lambda folder: text.train_text_encoder(folder, num_steps=4),
        work,
        "text.safetensors",
        lambda: kill_at(4, text, "random_captions", monkeypatch),
    )


def test_the_reader_must_find_what_the_caption_says() -> None:
    tokenizer = text.build_tokenizer()
    ids, mask, truth = text.random_captions(tokenizer, np.random.default_rng(0))
    spec = parse_caption(tokenizer.decode(ids[2, : mask[2].sum()], skip_special_tokens=True))
    assert [text.COLOURS[i] for i in truth["colour"][2]] == [sprite.colour for sprite in spec.sprites]
    assert text.BACKGROUNDS[truth["background"][2]] == spec.background
    logits = text.CaptionReader()(ids, mask)
    assert logits["motion"].shape == (text.BATCH_SIZE, text.NUM_SPRITES, len(text.MOTIONS))


def test_the_generator_is_trained_on_latents_and_packed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = vae.build_vae()
    generator.encode_shards(work / "clips", autoencoder, 0, 1)
    channels = vae.LAYOUT["z_dim"]
    assert np.load(generator.latents_path(work / "clips", 0)).shape == (2, channels, 4, 8, 8)
    schedule = generator.Schedule(num_steps=4, batch_size=2, warmup=1, checkpoint_every=2)
    text.train_text_encoder(work, num_steps=1)
    for folder in ("whole", "killed"):
        (work / folder).mkdir()
        shutil.copy(work / "text.safetensors", work / folder)
    assert_resumes(
        lambda folder: generator.train_generator(work / "clips", folder, schedule),
        work,
        "generator.safetensors",
        lambda: kill_at(4, generator, "flow_loss", monkeypatch),
    )
    model = package.load_text_to_latents(work / "whole" / "generator.safetensors")
    package.write_pipeline(autoencoder, model, work / "pipeline")
    pipe = WanPipeline.from_pretrained(work / "pipeline", dtype=torch.float32)
    data = generator.TrainingData(work / "clips")
    assert pipe.vae.config.latents_mean == pytest.approx(data.mean.flatten().tolist())
    assert pipe.vae.config.latents_std == pytest.approx(data.std.flatten().tolist())
    caption = (work / "clips" / "captions-0000.txt").read_text().splitlines()[0]
    arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    latents = pipe(caption, num_frames=13, height=64, width=64, **arguments).frames
    assert latents.shape == (1, channels, 4, 8, 8)
    assert torch.isfinite(latents).all()
    assert json.loads((work / "pipeline" / "text_encoder" / "config.json").read_text())["dtype"] == "float32"
    assert sum(path.stat().st_size for path in (work / "pipeline").rglob("*")) < 16e6


def test_some_samples_lose_their_prompt(work: Path) -> None:
    generator.encode_shards(work / "clips", vae.build_vae(), 0, 1)
    data = generator.TrainingData(work / "clips")
    schedule = generator.Schedule(batch_size=400, drop_prompt=0.25)
    clean, ids, mask = data.batch(schedule, torch.Generator().manual_seed(0))
    empty = mask.sum(1) == len(data.empty)
    assert 0.15 < empty.float().mean() < 0.35
    assert torch.equal(ids[empty][0, : len(data.empty)], data.empty)
    assert clean.mean((0, 2, 3, 4)).abs().max() < 0.2
    assert (clean.std((0, 2, 3, 4)) - 1).abs().max() < 0.2
