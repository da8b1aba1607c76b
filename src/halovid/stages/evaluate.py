"""evaluate: base and aligned generator on prompts that no stage has seen.

    halovid evaluate RECIPE.yaml RUN

Reads RUN/align and RUN/reward; writes RUN/evaluate: base/ and aligned/ (clip folders, same prompts and seeds),
measures.parquet (one row per clip and measure), metrics.parquet (base against aligned with intervals),
agreement.parquet (the reward model against the truth), rewards.parquet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch

from halovid import video_metrics
from halovid.clips import ClipFolder, Row, sample_clips
from halovid.config import RunConfig
from halovid.errors import InputError
from halovid.folders import StageFolder, open_stage
from halovid.generators import load_generator, model_identity
from halovid.grid import PatchGrid
from halovid.judges import InspectorJudge
from halovid.judges.base import DEFECT_RATING, Judgement, label_rows
from halovid.measures import Instrument, compare, measure_critic, measure_plain, measure_truth
from halovid.prompts import Prompt, load_prompts
from halovid.rewards.agreement import agreement_rows
from halovid.rewards.data import load_labelled
from halovid.rewards.network import load_reward
from halovid.runtime import batches, resolve_device, resolve_dtype, set_threads
from halovid.tables import AGREEMENT, LABELS, MEASURES, METRICS, rows_to_table
from halovid.world.captions import parse_caption

MODELS = ("base", "aligned")
_BATCH = 32


def run(config: RunConfig, run_dir: Path) -> None:
    """Samples, measures and compares."""
    prompts, refused = load_prompts(config.evaluate.prompts)
    if config.evaluate.truth == "inspector":
        _require_captions(prompts)
    depends = config.part("seed", "dtype", "grid", "generator", "evaluate") | {
        "model": model_identity(config.generator),
        "texts": [prompt.text for prompt in prompts],
    }
    with open_stage(run_dir, "evaluate", depends, ["align", "reward"]) as stage:
        if stage is None:
            return
        for item, reason in refused:
            stage.skip(item, reason)
        set_threads(config.threads)
        device = resolve_device(config.device)
        generator = load_generator(config.generator, device, resolve_dtype(config.dtype, device))
        for model in MODELS:
            if model == "aligned":
                generator.load_weights(run_dir / "align" / "weights")
            folder = stage.path / model
            table = sample_clips(
                stage,
                folder,
                generator,
                config.generator,
                prompts,
                config.seed + 1,  # not the noise of the candidates
                config.evaluate.samples,
                f"sample {model}",
            )
            stage.write(f"{model}/clips.parquet", table)
        measured = pa.concat_tables([_measure(stage, model, config) for model in MODELS])
        stage.write("measures.parquet", measured)
        comparison = compare(measured, config.evaluate.num_resamples, config.seed)
        stage.write("metrics.parquet", rows_to_table(comparison, METRICS))
        agreement = _agreement(stage, config, run_dir) if config.evaluate.truth == "inspector" else []
        stage.write("agreement.parquet", rows_to_table(agreement, AGREEMENT))


def _require_captions(prompts: Sequence[Prompt]) -> None:
    """InputError when the inspector can't read a prompt: said before anything is sampled."""
    for prompt in prompts:
        try:
            parse_caption(prompt.text)
        except ValueError as error:
            raise InputError(
                f"evaluate.truth is 'inspector', which knows only the embedded world, and prompt {prompt.prompt_id} is "
                f"{error}; set evaluate.truth to none"
            ) from error


def _instruments(config: RunConfig) -> list[Instrument]:
    """What measures the clips."""
    instruments: list[Instrument] = [measure_plain]
    if config.evaluate.truth == "inspector":
        instruments.append(measure_truth)
    if config.evaluate.critic == "world":
        instruments.append(measure_critic)
    return instruments


def _measure(stage: StageFolder, model: str, config: RunConfig) -> pa.Table:
    """All measures of a model's clips, one row each."""
    clips = ClipFolder(stage.path / model, config.clip_size)
    instruments = _instruments(config)

    def measure(batch: Sequence[Row]) -> list[Row]:
        rows, video = clips.readable(batch, stage.skip)
        if video is None:
            return []
        prompts = [row["prompt"] for row in rows]
        values = {name: value for own in instruments for name, value in own(video, prompts, config.grid).items()}
        return [
            _row(model, row["prompt_id"], row["seed"], name, value[i].item())
            for i, row in enumerate(rows)
            for name, value in values.items()
        ]

    table = stage.map_batches(f"measure {model}", clips.rows, _BATCH, measure, MEASURES)
    return pa.concat_tables([table, rows_to_table(_diversity(clips, model), MEASURES)])


def _diversity(clips: ClipFolder, model: str) -> list[Row]:
    """How much the samples of each prompt differ, in percent of the full range; needs two of them."""
    by_prompt: dict[str, list[Row]] = {}
    for row in clips.rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    rows = []
    for prompt_id, own in by_prompt.items():
        _, video = clips.readable(own, lambda *_: None)  # the unreadable ones were listed while measuring
        if video is not None and len(video) > 1:
            value = 50 * video_metrics.diversity(video).item()  # distances span 0..2
            rows.append(_row(model, prompt_id, own[0]["seed"], "diversity", value))
    return rows


def _row(model: str, prompt_id: str, seed: int, name: str, value: float) -> Row:
    return {"model": model, "prompt_id": prompt_id, "seed": seed, "measure": name, "value": value}


def _agreement(stage: StageFolder, config: RunConfig, run_dir: Path) -> list[Row]:
    """The reward model's ratings of clips of the base model against the truth, dense and crop."""
    network = load_reward(run_dir / "reward")
    clips = ClipFolder(stage.path / "base", config.reward_size)
    clips.rows = clips.rows[: config.evaluate.agreement_clips]
    whole = ClipFolder(stage.path / "base", config.clip_size)
    truth = rows_to_table(_true_labels(whole, clips.rows, config.grid), LABELS)
    spec = network.spec
    data, _ = load_labelled(
        clips, truth, spec.aspects, spec.patch_aspects, config.grid, lambda *_: None, network.backbone
    )
    rows = agreement_rows(network, data, "dense", config.grid, DEFECT_RATING, config.score.batch_size)
    few = data.subset(torch.arange(min(config.evaluate.crop_clips, len(data))))
    return rows + (agreement_rows(network, few, "crop", config.grid, DEFECT_RATING, 4) if len(few) else [])


def _true_labels(clips: ClipFolder, some: Sequence[Row], grid: PatchGrid) -> list[Row]:
    """The inspector's labels of some clips."""
    judge, labels = InspectorJudge(grid), []
    for batch in batches(some, _BATCH):
        rows, video = clips.readable(batch, lambda *_: None)
        if video is not None:
            answers = judge.judge(video, [row["prompt"] for row in rows], [row["clip_id"] for row in rows])
            for row, answer in zip(rows, answers, strict=True):
                labels += label_rows(row["clip_id"], answer, judge.name) if isinstance(answer, Judgement) else []
    return labels
