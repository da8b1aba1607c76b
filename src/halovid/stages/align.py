"""align: preference pairs -> aligned generator, by Gran-DPO or another objective.

    halovid align RECIPE.yaml RUN

Reads RUN/pair, RUN/generate, where `pair.sources` needs them RUN/good and RUN/restore, and to monitor the training
RUN/reward, unless a released or served model gives the rewards. Writes RUN/align:

    weights/        the result: a LoRA for diffusers' `load_lora_weights`, or the whole denoiser
    snapshots/      such weights after each step of `align.snapshots`
    samples/        mp4 clips that were sampled along the way, `align.sample_prompts` of them at a time
    tensorboard/, log.jsonl    the metrics of each step
"""

from __future__ import annotations

from pathlib import Path

import torch

from halovid.clips.conditions import read_negative
from halovid.clips.folder import ClipFolder
from halovid.config.run import RunConfig
from halovid.maths.seeds import clip_seed
from halovid.measuring.instruments import open_instruments
from halovid.models import DiffusionModel, Part, model_identity, open_model
from halovid.rewards.rewarder import open_rewarder, rewarder_identity
from halovid.stages import STAGES
from halovid.store.folders import open_stage
from halovid.store.runtime import resolve_device
from halovid.store.tables import PAIRS, read_table
from halovid.training.loop import Alignment, train
from halovid.training.monitor import Monitor, monitor_instruments
from halovid.training.objectives import make_objective
from halovid.training.pairs import PairSource
from halovid.training.policy import Policy


def run(config: RunConfig, run_dir: Path) -> None:
    """Trains the generator on the pairs, and writes its averaged weights."""
    depends = config.part("seed", "dtype", "grid", "generator", "align") | {"model": model_identity(config.generator)}
    if _is_monitored(config):
        depends |= {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "align", depends, STAGES["align"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        device = resolve_device(config.device)
        objective = make_objective(config.align.objective)
        folders = {name: ClipFolder(run_dir / name, config.clip_size) for name in config.paired_folders}
        rows = read_table(run_dir / "pair" / "pairs.parquet", PAIRS).to_pylist()
        pairs = PairSource(rows, folders, config.margin_grid, device, with_rejected=objective.needs.rejected)
        model = _open_model(pairs, config, run_dir)
        pairs.encode_latents(model, stage.path / "parts" / "latents")
        torch.manual_seed(config.align_seed)  # for the random initial weights of the adapter
        policy = Policy(model, config.align)
        monitor = _make_monitor(folders["generate"], config, run_dir, stage.path / "samples")
        train(Alignment(policy, objective, pairs, config.align, config.align_seed, stage.path), monitor)
        with policy.ema_weights():
            model.save_weights(stage.path / "weights")


def _is_monitored(config: RunConfig) -> bool:
    """Whether clips are sampled and rewarded while the generator is trained."""
    return config.align.sample_prompts > 0 and config.has_rewarder


def _open_model(pairs: PairSource, config: RunConfig, run_dir: Path) -> DiffusionModel:
    """The model with its denoiser, and with its autoencoder if clips must be encoded or are sampled along the way."""
    model_parts: set[Part] = {"denoiser"}
    if _is_monitored(config) or pairs.has_missing_latents:
        model_parts.add("autoencoder")
    negative = read_negative(run_dir / "generate", config) if _is_monitored(config) else None
    return open_model(config, model_parts, negative)


def _make_monitor(clips: ClipFolder, config: RunConfig, run_dir: Path, folder: Path) -> Monitor | None:
    """The monitor of the first `align.sample_prompts` prompts; None if the training is not monitored."""
    if not _is_monitored(config):
        return None
    first_clips = [rows[0] for rows in clips.by_prompt.values()][: config.align.sample_prompts]
    rows = [row | {"seed": clip_seed(config.seed, row["prompt_id"], 0)} for row in first_clips]
    device = resolve_device(config.device)
    conditioning = clips.conditioning([row["prompt_id"] for row in rows]).to(device)
    instruments = open_instruments(monitor_instruments(config), config, run_dir)
    return Monitor(folder, open_rewarder(config, run_dir), rows, conditioning, config, instruments)
