"""The training of the transformers on latents, from nothing or from another's weights, and their pipelines."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from halovid.store.errors import InputError
from halovid.world import packaged_pipeline
from halovid.world_training import generator, package, text, vae
from halovid.world_training.plans import PLANS, Plan, Schedule
from tiny_world_training import assert_resumes, kill_at, render_work

CHANNELS = vae.LAYOUT["z_dim"]
SHORT = Schedule(num_steps=4, batch_size=2, warmup=1, checkpoint_every=2)


def short_plan(name: str) -> Plan:
    return replace(PLANS[name], schedule=SHORT)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with rendered clips and their latents, by an untrained autoencoder."""
    render_work(tmp_path, monkeypatch)
    generator.encode_shards(tmp_path / "clips", vae.build_vae(), 0, 1)
    return tmp_path


def test_the_generator_is_trained_on_latents_and_packed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = vae.build_vae()
    assert np.load(generator.latents_path(work / "clips", 0)).shape == (2, CHANNELS, 4, 8, 8)
    text.train_text_encoder(work, num_steps=1)
    for folder in ("whole", "killed"):
        (work / folder).mkdir()
        shutil.copy(work / "text.safetensors", work / folder)
    assert_resumes(
        lambda folder: generator.train_generator(short_plan("plain"), work / "clips", folder),
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
    assert latents.shape == (1, CHANNELS, 4, 8, 8)
    assert torch.isfinite(latents).all()
    assert json.loads((work / "pipeline" / "text_encoder" / "config.json").read_text())["dtype"] == "float32"
    assert sum(path.stat().st_size for path in (work / "pipeline").rglob("*")) < 16e6


def test_a_generator_that_starts_from_a_pipeline_has_its_weights_and_needs_no_text_training(tmp_path: Path) -> None:
    model, folder = generator.new_text_to_latents(PLANS["panorama"], tmp_path), packaged_pipeline()
    transformer = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer", dtype=torch.float32)
    text_encoder = UMT5EncoderModel.from_pretrained(folder, subfolder="text_encoder")
    for started, packaged in ((model.transformer, transformer), (model.text_encoder, text_encoder)):
        expected = packaged.state_dict()
        assert started.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in started.state_dict().items())
        assert all(value.dtype == torch.float32 for value in started.parameters())
    assert not any(parameter.requires_grad for parameter in model.text_encoder.parameters())
    with pytest.raises(InputError, match=r"text\.safetensors"):
        generator.new_text_to_latents(PLANS["plain"], tmp_path)


def test_a_generator_that_starts_from_a_pipeline_is_trained_on_larger_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_work(tmp_path, monkeypatch, PLANS["panorama"])
    generator.encode_shards(tmp_path / "clips", vae.build_vae(PLANS["panorama"].start), 0, 1)
    assert np.load(generator.latents_path(tmp_path / "clips", 1)).shape == (2, CHANNELS, 5, 12, 12)
    generator.train_generator(short_plan("panorama"), tmp_path / "clips", tmp_path)
    trained = package.load_text_to_latents(tmp_path / "generator.safetensors")
    start = generator.new_text_to_latents(PLANS["panorama"], tmp_path)
    moved, kept = (
        [
            torch.equal(value, getattr(start, part).state_dict()[key])
            for key, value in getattr(trained, part).state_dict().items()
        ]
        for part in ("transformer", "text_encoder")
    )
    assert not all(moved) and all(kept)


def test_some_samples_lose_their_prompt(work: Path) -> None:
    data = generator.TrainingData(work / "clips")
    schedule = Schedule(batch_size=400, drop_prompt=0.25)
    clean, ids, mask = data.batch(schedule, torch.Generator().manual_seed(0))
    empty = mask.sum(1) == len(data.empty)
    assert 0.15 < empty.float().mean() < 0.35
    assert torch.equal(ids[empty][0, : len(data.empty)], data.empty)
    assert clean.mean((0, 2, 3, 4)).abs().max() < 0.2
    assert (clean.std((0, 2, 3, 4)) - 1).abs().max() < 0.2


class Still(torch.nn.Module):
    """Predicts the velocity 0."""

    def forward(self, noisy: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros_like(noisy)


def test_the_error_of_each_latent_frame_counts_by_its_weight() -> None:
    clean = torch.randn(3, CHANNELS, 5, 4, 6, generator=torch.Generator().manual_seed(1))
    ids = mask = torch.ones(3, 2, dtype=torch.long)

    def loss(*weight: float) -> float:
        draw = torch.Generator().manual_seed(0)
        return generator.flow_loss(Still(), clean, ids, mask, torch.tensor(weight), draw).item()

    alone = [loss(*(5.0 * (frame == k) for frame in range(5))) for k in range(5)]
    assert loss(1, 1, 1, 1, 1) == pytest.approx(np.mean(alone), rel=1e-5)
    assert loss(1.5, 1.1, 0.8, 0.8, 0.8) == pytest.approx(np.dot([1.5, 1.1, 0.8, 0.8, 0.8], alone) / 5, rel=1e-5)
    assert len(set(alone)) == 5
