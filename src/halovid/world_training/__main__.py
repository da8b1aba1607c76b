"""Trains what the package carries, from nothing.

    python -m halovid.world_training clips WORK       render the training clips
    python -m halovid.world_training vae WORK         train the autoencoder
    python -m halovid.world_training latents WORK     encode the clips
    python -m halovid.world_training decoder WORK     train the autoencoder's decoder further, on noisy latents
    python -m halovid.world_training text WORK        train the text encoder
    python -m halovid.world_training generator WORK   train the transformer
    python -m halovid.world_training pipeline WORK    assemble the packaged pipeline folder
    python -m halovid.world_training critic           train the critic
    python -m halovid.world_training figures          measure the packaged generator
    python -m halovid.world_training all WORK         all of these in order

WORK is a folder for clips, checkpoints and logs (about 8 GB). Each command continues where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from halovid.config.run import GeneratorConfig
from halovid.models import load_model
from halovid.store.files import write_json
from halovid.store.runtime import console
from halovid.world import packaged_pipeline
from halovid.world.critic import WEIGHTS
from halovid.world_training import clips, critic, decoder, figures, generator, package, record, text, vae

app = typer.Typer(
    help="Train what the package carries: the embedded world's generator and critic.",
    no_args_is_help=True,
)

Work = Annotated[Path, typer.Argument(metavar="WORK", help="folder for clips, checkpoints and logs")]
Threads = Annotated[int, typer.Option(help="CPU threads")]
RECORD = Path("recipes/world")


@app.command("clips")
def render(work: Work, shards: int = 40, part: int = 0, parts: int = 1) -> None:
    """Render training clips, 500 a shard; several processes can share the work as parts."""
    torch.set_num_threads(1)
    clips.render_shards(work / "clips", range(part, shards, parts))


@app.command("vae")
def train_vae(work: Work, threads: Threads = 1) -> None:
    """Train the autoencoder: single frames, short clips, whole clips."""
    torch.set_num_threads(threads)
    vae.train_vae(work / "clips", work)


@app.command("latents")
def encode(work: Work, part: int = 0, parts: int = 1) -> None:
    """Encode all clips with the trained autoencoder; several processes can share the work as parts."""
    torch.set_num_threads(1)
    model = vae.use_channels_last(package.load_vae(work / "vae.safetensors"))
    generator.encode_shards(work / "clips", model, part, parts)


@app.command("decoder")
def train_decoder(work: Work, threads: Threads = 1) -> None:
    """Train the decoder further, so that small errors of the latents do not show."""
    torch.set_num_threads(threads)
    decoder.train_decoder(package.load_vae(work / "vae.safetensors"), work / "clips", work)


@app.command("text")
def train_text_encoder(work: Work, threads: Threads = 1) -> None:
    """Train the text encoder on captions alone."""
    torch.set_num_threads(threads)
    text.train_text_encoder(work)


@app.command("generator")
def train_generator(work: Work, threads: Threads = 1, steps: int = generator.Schedule.num_steps) -> None:
    """Train the transformer on the latents, with the trained text encoder."""
    torch.set_num_threads(threads)
    generator.train_generator(work / "clips", work, generator.Schedule(num_steps=steps))


@app.command("pipeline")
def pipeline(work: Work, folder: Annotated[Path | None, typer.Option(help="default: the packaged one")] = None) -> None:
    """Assemble a diffusers pipeline folder from the checkpoints; of the packaged one, keep the logs too."""
    model = package.load_text_to_latents(work / "generator.safetensors")
    package.write_pipeline(package.load_vae(work / "decoder.safetensors"), model, folder or packaged_pipeline())
    if folder is None:
        record.record(work, RECORD)


@app.command("critic")
def train_critic(weights: Path = WEIGHTS, threads: Threads = 1) -> None:
    """Train the critic and write its accuracy figures."""
    torch.set_num_threads(threads)
    model = load_model(GeneratorConfig(), {"autoencoder"}, torch.device("cpu"), torch.float32)
    write_json(RECORD / "critic.json", critic.train_critic(model, weights, critic.Schedule()))


@app.command("figures")
def measure(
    prompts: int = 96,
    model: Annotated[str, typer.Option(help="pipeline folder; 'world' is the packaged one")] = "world",
    record: Annotated[Path, typer.Option(help="where the figures go")] = RECORD / "figures.json",
    threads: Threads = 1,
) -> None:
    """Measure a generator on held-out prompts, its autoencoder on held-out scenes, and the inspector."""
    torch.set_num_threads(threads)
    measured = figures.measure(GeneratorConfig(model=model), prompts)
    write_json(record, measured)
    console.print(measured)


@app.command("all")
def everything(work: Work, threads: Threads = 1) -> None:
    """Render, train, assemble and measure everything, in order; about four hours on two cores."""
    render(work)
    train_vae(work, threads)
    encode(work)
    train_decoder(work, threads)
    train_text_encoder(work, threads)
    train_generator(work, threads)
    pipeline(work)
    train_critic(threads=threads)
    measure(threads=threads)


if __name__ == "__main__":
    app(prog_name="python -m halovid.world_training")
