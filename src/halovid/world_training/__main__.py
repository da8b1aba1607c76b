"""Trains what the package carries: the generators of the embedded worlds, and their critics.

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

WORK is a folder for clips, checkpoints and logs (about 8 GB; of the panorama world 15). Each command continues where it
stopped. With `--world panorama` it is of that world, whose generator starts from the plain one's weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from halovid.models import load_model
from halovid.store.files import write_json
from halovid.store.runtime import console
from halovid.world.critic import WEIGHTS
from halovid.world_training import clips, critic, decoder, figures, generator, package, record, text, vae
from halovid.world_training.plans import PLANS

app = typer.Typer(
    help="Train what the package carries: the generators and critics of the embedded worlds.",
    no_args_is_help=True,
)


def _known_world(name: str) -> str:
    """The name itself, if it is that of a world; else a usage error that tells them all."""
    if name not in PLANS:
        raise typer.BadParameter(f"there is no world {name!r}; the worlds are {', '.join(PLANS)}")
    return name


Work = Annotated[Path, typer.Argument(metavar="WORK", help="folder for clips, checkpoints and logs")]
WorldName = Annotated[
    str, typer.Option("--world", metavar="|".join(PLANS), callback=_known_world, help="whose generator and critic")
]
Threads = Annotated[int, typer.Option(help="CPU threads")]


@app.command("clips")
def render(work: Work, world: WorldName = "plain", shards: int = 40, part: int = 0, parts: int = 1) -> None:
    """Render training clips, 500 a shard; several processes can share the work as parts."""
    torch.set_num_threads(1)
    clips.render_shards(PLANS[world], work / "clips", range(part, shards, parts))


@app.command("vae")
def train_vae(work: Work, world: WorldName = "plain", threads: Threads = 1) -> None:
    """Train the autoencoder: single frames, short clips, whole clips, or crops, as the world's plan says."""
    torch.set_num_threads(threads)
    vae.train_vae(PLANS[world], work / "clips", work)


@app.command("latents")
def encode(work: Work, world: WorldName = "plain", part: int = 0, parts: int = 1) -> None:
    """Encode all clips with the trained autoencoder, in each world alike; several processes can share it as parts."""
    torch.set_num_threads(1)
    model = vae.use_channels_last(package.load_vae(work / "vae.safetensors"))
    generator.encode_shards(work / "clips", model, part, parts)


@app.command("decoder")
def train_decoder(work: Work, world: WorldName = "plain", threads: Threads = 1) -> None:
    """Train the decoder further, in each world alike, so that small errors of the latents do not show."""
    torch.set_num_threads(threads)
    decoder.train_decoder(package.load_vae(work / "vae.safetensors"), work / "clips", work)


@app.command("text")
def train_text_encoder(work: Work, world: WorldName = "plain", threads: Threads = 1) -> None:
    """Train the text encoder on captions alone; nothing to do for a generator that starts from another's weights."""
    start = PLANS[world].start
    if start is not None:
        console.print(f"text: nothing to do, the {world} generator starts with the text encoder of {start}")
        return
    torch.set_num_threads(threads)
    text.train_text_encoder(work)


@app.command("generator")
def train_generator(
    work: Work,
    world: WorldName = "plain",
    threads: Threads = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="default: those of the world's plan")] = None,
) -> None:
    """Train the transformer on the latents, with the trained text encoder."""
    torch.set_num_threads(threads)
    plan = PLANS[world]
    schedule = plan.schedule if steps is None else replace(plan.schedule, num_steps=steps)
    generator.train_generator(replace(plan, schedule=schedule), work / "clips", work)


@app.command("pipeline")
def pipeline(
    work: Work,
    world: WorldName = "plain",
    folder: Annotated[Path | None, typer.Option(help="default: the packaged one")] = None,
) -> None:
    """Assemble a diffusers pipeline folder from the checkpoints; of the packaged one, keep the logs too."""
    plan = PLANS[world]
    model = package.load_text_to_latents(work / "generator.safetensors")
    package.write_pipeline(package.load_vae(work / "decoder.safetensors"), model, folder or plan.pipeline)
    if folder is None:
        record.record(work, plan.record)


@app.command("critic")
def train_critic(
    world: WorldName = "plain",
    weights: Annotated[Path | None, typer.Option(help="where they go; default: the packaged ones")] = None,
    threads: Threads = 1,
) -> None:
    """Train the critic and write its accuracy figures."""
    torch.set_num_threads(threads)
    plan = PLANS[world]
    model = load_model(plan.generator_config(), {"autoencoder"}, torch.device("cpu"), torch.float32)
    accuracy = critic.train_critic(plan, model, weights or WEIGHTS[world], critic.Schedule())
    write_json(plan.record / "critic.json", accuracy)


@app.command("figures")
def measure(
    world: WorldName = "plain",
    prompts: int = 96,
    model: Annotated[str | None, typer.Option(help="pipeline folder; default: the packaged one")] = None,
    record: Annotated[Path | None, typer.Option(help="where the figures go; default: beside the recipes")] = None,
    threads: Threads = 1,
) -> None:
    """Measure a generator on held-out prompts, its autoencoder on held-out scenes, and the inspector."""
    torch.set_num_threads(threads)
    plan = PLANS[world]
    measured = figures.measure(plan, prompts, model)
    write_json(record or plan.record / "figures.json", measured)
    console.print(measured)


@app.command("all")
def everything(work: Work, world: WorldName = "plain", threads: Threads = 1) -> None:
    """Render, train, assemble and measure everything, in order; about four hours on two cores, panorama longer."""
    render(work, world)
    train_vae(work, world, threads)
    encode(work, world)
    train_decoder(work, world, threads)
    train_text_encoder(work, world, threads)
    train_generator(work, world, threads)
    pipeline(work, world)
    train_critic(world, threads=threads)
    measure(world, threads=threads)


if __name__ == "__main__":
    app(prog_name="python -m halovid.world_training")
