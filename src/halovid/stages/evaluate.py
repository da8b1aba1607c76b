"""evaluate: the aligned generator against the base, on the prompts and seeds of the baseline.

    halovid evaluate RECIPE.yaml RUN

Reads RUN/baseline, RUN/reward and RUN/align (not the latter with `evaluate.best_of`, which trains nothing). Writes
RUN/evaluate: a clip folder, measures.parquet (one row per clip and measure, of both models), metrics.parquet (base
against aligned with intervals), agreement.parquet (the reward model against the truth, on the base's clips).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch

from halovid.best_of import BestOf
from halovid.clips import ClipFolder, Row, sample_clips
from halovid.config import RunConfig
from halovid.errors import InputError
from halovid.folders import open_stage
from halovid.generators import Sampler, model_identity, open_generator
from halovid.judges import InspectorJudge
from halovid.judges.base import DEFECT_RATING, Judgement, label_rows
from halovid.measures import EVALUATION_SEED, compare, measure_clips
from halovid.policy import snapshot_folder
from halovid.prompts import Prompt
from halovid.rewards.agreement import agreement_rows
from halovid.rewards.data import load_labelled
from halovid.rewards.network import load_reward
from halovid.runtime import batches, resolve_device, set_threads
from halovid.tables import AGREEMENT, LABELS, MEASURES, METRICS, read_table, rows_to_table

_BATCH = 32


def run(config: RunConfig, run_dir: Path) -> None:
    """Samples, measures and compares."""
    depends = config.part("seed", "dtype", "grid", "generator", "evaluate") | {
        "model": model_identity(config.generator)
    }
    trained = ["align"] if config.evaluate.best_of == 1 else []
    with open_stage(run_dir, "evaluate", depends, ["baseline", "reward", *trained]) as stage:
        if stage is None:
            return
        set_threads(config.threads)
        base = ClipFolder(run_dir / "baseline", config.clip_size)
        prompts = list({row["prompt_id"]: Prompt(row["prompt_id"], row["prompt"]) for row in base.rows}.values())
        sampler = _compared_model(config, run_dir)
        seed, samples = config.seed + EVALUATION_SEED, config.evaluate.samples
        sample_clips(stage, sampler, config.generator, prompts, seed, samples, "sample aligned")
        own = measure_clips(stage, ClipFolder(stage.path, config.clip_size), "aligned", config)
        measured = pa.concat_tables([read_table(run_dir / "baseline" / "measures.parquet", MEASURES), own])
        stage.write("measures.parquet", measured)
        comparison = compare(measured, config.evaluate.num_resamples, config.seed)
        stage.write("metrics.parquet", rows_to_table(comparison, METRICS))
        agreement = _agreement(config, run_dir) if config.evaluate.truth == "inspector" else []
        stage.write("agreement.parquet", rows_to_table(agreement, AGREEMENT))


def _compared_model(config: RunConfig, run_dir: Path) -> Sampler:
    """What is held against the base: the aligned generator, or the base with the best of several tries.

    Raises:
        InputError: align kept no weights of `evaluate.step`.
    """
    device = resolve_device(config.device)
    generator = open_generator(config)
    if config.evaluate.best_of > 1:
        network = load_reward(run_dir / "reward").to(device)
        return BestOf(generator, network, config.grid, config.evaluate.best_of, config.evaluate.best_by)
    weights = run_dir / "align" / "weights"
    if config.evaluate.step is not None:
        weights = snapshot_folder(run_dir / "align", config.evaluate.step)
        if not weights.exists():
            raise InputError(f"evaluate.step is {config.evaluate.step}, but align kept no weights of it: {weights}")
    generator.load_weights(weights)
    return generator


def _agreement(config: RunConfig, run_dir: Path) -> list[Row]:
    """The reward model's ratings of clips of the base model against the truth, dense and crop."""
    network = load_reward(run_dir / "reward")
    clips = ClipFolder(run_dir / "baseline", config.reward_size)
    clips.rows = clips.rows[: config.evaluate.agreement_clips]
    whole = ClipFolder(run_dir / "baseline", config.clip_size)
    truth = rows_to_table(_true_labels(whole, clips.rows, config), LABELS)
    spec = network.spec
    data, _ = load_labelled(
        clips, truth, spec.aspects, spec.patch_aspects, config.grid, lambda *_: None, network.backbone
    )
    rows = agreement_rows(network, data, "dense", config.grid, DEFECT_RATING, config.score.batch_size)
    few = data.subset(torch.arange(min(config.evaluate.crop_clips, len(data))))
    return rows + (agreement_rows(network, few, "crop", config.grid, DEFECT_RATING, 4) if len(few) else [])


def _true_labels(clips: ClipFolder, some: Sequence[Row], config: RunConfig) -> list[Row]:
    """The inspector's labels of some clips."""
    judge, labels = InspectorJudge(config.grid), []
    for batch in batches(some, _BATCH):
        rows, video = clips.readable(batch, lambda *_: None)  # the unreadable ones were listed while measuring
        if video is not None:
            prompts, names = [row["prompt"] for row in rows], [row["clip_id"] for row in rows]
            answers = judge.judge(video, prompts, names, clips.geometry)
            for row, answer in zip(rows, answers, strict=True):
                labels += label_rows(row["clip_id"], answer, judge.name) if isinstance(answer, Judgement) else []
    return labels
