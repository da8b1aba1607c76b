"""align: preference pairs or rollouts -> aligned generator, by Gran-DPO or another objective.

    halovid align RECIPE.yaml RUN

Reads RUN/pair, RUN/generate, where `pair.sources` needs them RUN/good, RUN/repair and RUN/restore; with a section
`align.rollouts` only the prompts of RUN/generate. To monitor the training, and for rollouts, RUN/reward, unless a
released or served model gives the rewards. Writes RUN/align:

    weights/        the result: a LoRA for diffusers' `load_lora_weights`, or the whole denoiser
    snapshots/      such weights after each step of `align.snapshots`
    samples/        mp4 clips that were sampled along the way, `align.sample_prompts` of them at a time
    rollouts.parquet    what each clip was worth that the training has learned from, with `align.rollouts`
    tensorboard/, log.jsonl    the metrics of each step
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from halovid.clips.conditions import read_negative
from halovid.clips.folder import ClipFolder
from halovid.config.run import RunConfig
from halovid.maths.seeds import clip_seed
from halovid.measuring.instruments import open_instruments
from halovid.models import DiffusionModel, Part, model_identity, open_model
from halovid.rewards.rewarder import Rewarder, open_rewarder, rewarder_identity
from halovid.stages import STAGES
from halovid.store.folders import open_stage
from halovid.store.runtime import resolve_device
from halovid.store.tables import PAIRS, ROLLOUTS, read_table, rows_to_table
from halovid.training.group_task import GroupTask
from halovid.training.loop import Alignment, train
from halovid.training.monitor import Monitor, monitor_instruments
from halovid.training.objectives import make_group_objective, make_objective
from halovid.training.pair_task import PairTask
from halovid.training.pairs import PairSource
from halovid.training.policy import Policy
from halovid.training.rollouts import Rollouts


def run(config: RunConfig, run_dir: Path) -> None:
    """Trains the generator on pairs or rollouts, and writes its averaged weights."""
    depends = config.part("seed", "dtype", "grid", "generator", "align") | {"model": model_identity(config.generator)}
    if _needs_rewards(config):
        depends |= {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "align", depends, STAGES["align"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        folders = {name: ClipFolder(run_dir / name, config.clip_size) for name in config.paired_folders}
        rewarder = open_rewarder(config, run_dir) if _needs_rewards(config) else None
        if config.align.rollouts is None:
            task: PairTask | GroupTask = _make_pair_task(folders, config, run_dir, stage.path / "parts")
        else:
            task = _make_group_task(folders["generate"], rewarder, config, run_dir, stage.path / "parts")
        monitor = _make_monitor(folders["generate"], rewarder, config, run_dir, stage.path / "samples")
        policy = task.policy
        train(Alignment(policy, task, config.align, stage.path), monitor)
        if isinstance(task, GroupTask):
            rows = task.rollout_rows(config.align.steps)
            stage.write("rollouts.parquet", rows_to_table(rows, ROLLOUTS))
        with policy.ema_weights():
            policy.model.save_weights(stage.path / "weights")


def _make_pair_task(folders: Mapping[str, ClipFolder], config: RunConfig, run_dir: Path, parts: Path) -> PairTask:
    """The training on the pairs of RUN/pair."""
    objective = make_objective(config.align.objective)
    rows = read_table(run_dir / "pair" / "pairs.parquet", PAIRS).to_pylist()
    device = resolve_device(config.device)
    pairs = PairSource(rows, folders, config.margin_grid, device, with_rejected=objective.needs.rejected)
    model = _open_model(config, run_dir, with_autoencoder=pairs.has_missing_latents)
    pairs.encode_latents(model, parts / "latents")
    return PairTask(_make_policy(model, config), objective, pairs, config.align, config.align_seed)


def _make_group_task(
    prompts: ClipFolder, rewarder: Rewarder | None, config: RunConfig, run_dir: Path, parts: Path
) -> GroupTask:
    """The training on the clips that the policy makes of the prompts."""
    assert rewarder is not None
    policy = _make_policy(_open_model(config, run_dir, with_autoencoder=True), config)
    rollouts = Rollouts(policy, rewarder, prompts, config, parts / "rollouts")
    objective = make_group_objective(config.align.objective)
    return GroupTask(policy, objective, rollouts, config.align, config.align_seed)


def _make_policy(model: DiffusionModel, config: RunConfig) -> Policy:
    torch.manual_seed(config.align_seed)  # for the random initial weights of the adapter
    return Policy(model, config.align)


def _is_monitored(config: RunConfig) -> bool:
    """Whether clips are sampled and rewarded while the generator is trained."""
    return config.align.sample_prompts > 0 and config.has_rewarder


def _needs_rewards(config: RunConfig) -> bool:
    """Whether clips are sampled and rewarded: to watch the training, or to learn from them."""
    return _is_monitored(config) or config.align.rollouts is not None


def _open_model(config: RunConfig, run_dir: Path, with_autoencoder: bool) -> DiffusionModel:
    """The model with its denoiser, and with its autoencoder if asked for or if clips are sampled along the way."""
    model_parts: set[Part] = {"denoiser"}
    if _is_monitored(config) or with_autoencoder:
        model_parts.add("autoencoder")
    negative = read_negative(run_dir / "generate", config) if _needs_rewards(config) else None
    return open_model(config, model_parts, negative)


def _make_monitor(
    clips: ClipFolder, rewarder: Rewarder | None, config: RunConfig, run_dir: Path, folder: Path
) -> Monitor | None:
    """The monitor of the first `align.sample_prompts` prompts; None if the training is not monitored."""
    if rewarder is None or not _is_monitored(config):
        return None
    first_clips = [rows[0] for rows in clips.by_prompt.values()][: config.align.sample_prompts]
    rows = [row | {"seed": clip_seed(config.seed, row["prompt_id"], 0)} for row in first_clips]
    device = resolve_device(config.device)
    conditioning = clips.conditioning([row["prompt_id"] for row in rows]).to(device)
    instruments = open_instruments(monitor_instruments(config), config, run_dir)
    return Monitor(folder, rewarder, rows, conditioning, config, instruments)
