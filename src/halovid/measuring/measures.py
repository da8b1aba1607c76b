"""What evaluation measures of the clips of a model, and how the measures of two models are compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from halovid.clips.folder import ClipFolder, Row
from halovid.config.run import RunConfig
from halovid.judges import make_judge
from halovid.judges.base import Judge, make_requests
from halovid.maths import statistics, video_metrics
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import Judgement, Refusal
from halovid.rewards.rewarder import Rewarder, open_rewarder
from halovid.store.folders import StageFolder
from halovid.store.runtime import clips_at_once
from halovid.store.tables import MEASURES as MEASURES_TABLE
from halovid.world.captions import parse_caption
from halovid.world.corruptions import KINDS
from halovid.world.critic import load_critic
from halovid.world.inspector import inspect

Values = dict[str, Tensor]

EVALUATION_SEED = 1  # added to the run's seed: evaluation has other noise than the candidates
_BATCH = 32


@dataclass(frozen=True)
class Measure:
    """A measure's place in the tables: who measured, the unit, and which direction is better."""

    group: str
    unit: str
    better: Literal["lower", "higher", "same"]


TRUTH, CRITIC, PLAIN = "Truth (inspector)", "Independent reward model (critic)", "Model-free"
JUDGE, REWARD = "Judge", "Reward model (what the training follows)"
KIND_PREFIX = "defect: "
MEASURES: dict[str, Measure] = {
    "defective sprite patches": Measure(TRUTH, "%", "lower"),
    "defective patches": Measure(TRUTH, "%", "lower"),
    "mean defect": Measure(TRUTH, "%", "lower"),
    "text alignment": Measure(TRUTH, "%", "higher"),
    "motion": Measure(TRUTH, "px/frame", "same"),
    "diversity without defects": Measure(TRUTH, "%", "same"),
    "critic: defect probability": Measure(CRITIC, "%", "lower"),
    "judge: rating": Measure(JUDGE, "", "higher"),
    "reward: clip": Measure(REWARD, "", "higher"),
    "reward: patches": Measure(REWARD, "", "higher"),
    "diversity": Measure(PLAIN, "%", "same"),
    "temporal flickering (VBench formula)": Measure(PLAIN, "", "higher"),
    "SSIM of adjacent frames": Measure(PLAIN, "", "higher"),
    "flow warp error": Measure(PLAIN, "", "lower"),
    "flow magnitude": Measure(PLAIN, "px/frame", "same"),
} | {KIND_PREFIX + kind: Measure(TRUTH, "%", "lower") for kind in KINDS}


def measure_truth(video: Tensor, clips: Sequence[Row], grid: PatchGrid) -> Values:
    """The inspector's findings, [B] each; rates in percent.

    Raises:
        ValueError: a prompt is no caption of the embedded world.
    """
    found = inspect(video, [parse_caption(clip["prompt"]) for clip in clips], grid)
    defective, sprites = found.defective, found.sprite_patches
    per_clip = (1, 2, 3)
    num_sprite_patches = sprites.sum(per_clip).clamp(min=1)
    kinds = load_critic().kinds(video, grid)  # names the kind of a defect that the inspector found
    values: Values = {
        "defective sprite patches": 100 * (defective & sprites).sum(per_clip) / num_sprite_patches,
        "defective patches": 100 * defective.float().mean(per_clip),
        "mean defect": 100 * found.patch_defects.mean(per_clip),
        "text alignment": 100 * (found.colour_right & found.shape_right).float().mean(1),
        "motion": found.motion,
        "diversity without defects": _diversity(found.nearest, clips),
    }
    for index, kind in enumerate(KINDS):
        values[KIND_PREFIX + kind] = 100 * (defective & sprites & (kinds == index)).sum(per_clip) / num_sprite_patches
    return values


def measure_critic(video: Tensor, clips: Sequence[Row], grid: PatchGrid) -> Values:
    """The packaged critic's mean probability of a defect over the patches, percent, [B]."""
    return {"critic: defect probability": 100 * load_critic().defect_probability(video, grid).mean((1, 2, 3))}


def measure_plain(video: Tensor, clips: Sequence[Row], grid: PatchGrid) -> Values:
    """Measures of each clip that need no model, [B] each."""
    flow = video_metrics.estimate_flow(video)
    return {
        "temporal flickering (VBench formula)": video_metrics.temporal_flickering(video),
        "SSIM of adjacent frames": video_metrics.ssim_stability(video),
        "flow warp error": video_metrics.flow_warp_error(video, flow),
        "flow magnitude": video_metrics.dynamic_degree(video, flow),
    }


def measure_diversity(video: Tensor, clips: Sequence[Row], grid: PatchGrid) -> Values:
    """How far each clip is from the other samples of its prompt, percent of the full range, [B]; NaN without any."""
    return {"diversity": _diversity(video, clips)}


def _diversity(video: Tensor, clips: Sequence[Row]) -> Tensor:
    value = torch.full((len(clips),), math.nan)
    for prompt in dict.fromkeys(clip["prompt_id"] for clip in clips):
        own = torch.tensor([clip["prompt_id"] == prompt for clip in clips])
        if own.sum() > 1:
            value[own] = 50 * video_metrics.diversity(video[own])  # distances span 0..2
    return value


def measure_judge(judge: Judge, geometry: LatentGeometry) -> Instrument:
    """The instrument that asks a judge: mean rating over the aspects, [B]; NaN for a clip that it refuses.

    An aspect that is rated by patch counts with the mean of its patches. Patches alone would not tell a sprite that is
    missing: all aspects count.
    """

    def measure(video: Tensor, clips: Sequence[Row], grid: PatchGrid) -> Values:
        answers = judge.judge(make_requests(clips, video), geometry)
        return {"judge: rating": torch.tensor([_mean_rating(answer) for answer in answers])}

    return measure


def measure_reward(rewarder: Rewarder, folder: ClipFolder, skip: Skip) -> Instrument:
    """The instrument that is a rewarder: the reward of the clip and the mean of its patches, [B] each.

    Args:
        folder: of the clips that are measured.
        skip: is told of clips that are refused; their values are NaN.
    """

    def measure(video: Tensor, clips: Sequence[Row], grid: PatchGrid) -> Values:
        rewards = rewarder.reward(video, folder.prompt_batch(clips, rewarder.needs_conditioning))
        for clip, refusal in zip(clips, rewards.refusals, strict=True):
            if refusal is not None:
                skip(f"reward of {clip['clip_id']}", refusal.reason, refusal.again)
        return {"reward: clip": rewards.clip, "reward: patches": rewards.patch_means}

    return measure


def _mean_rating(answer: Judgement | Refusal) -> float:
    if isinstance(answer, Refusal):
        return math.nan
    by_patch = {aspect: patches.mean().item() for aspect, patches in answer.patches.items()}
    return fmean((answer.clip | by_patch).values())


Instrument = Callable[[Tensor, Sequence[Row], PatchGrid], Values]
Skip = Callable[[str, str, bool], None]  # item, reason, and whether another time may help


def instruments(config: RunConfig, run_dir: Path, clips: ClipFolder, skip: Skip) -> list[Instrument]:
    """What measures the clips; `skip` is told of what could not be measured."""
    chosen: list[Instrument] = [measure_plain, measure_diversity]
    if config.evaluate.truth == "inspector":
        chosen.append(measure_truth)
    if config.evaluate.critic == "world":
        chosen.append(measure_critic)
    if config.evaluate.judge:
        chosen.append(measure_judge(make_judge(config.judge, config.grid, config.seed), clips.geometry))
    if config.evaluate.reward:
        chosen.append(measure_reward(open_rewarder(config, run_dir, clips.geometry), clips, skip))
    return chosen


def measure_clips(stage: StageFolder, run_dir: Path, model: str, config: RunConfig) -> pa.Table:
    """All measures of the clips that a model made in a stage's folder, rows of tables.MEASURES.

    Clips that can't be read are listed as skipped. A clip has no row of a measure that it has no value of: diversity
    needs another sample of its prompt.
    """
    clips = ClipFolder(stage.path, config.clip_size)
    used = instruments(config, run_dir, clips, stage.skip)

    def measure(prompts: Sequence[Sequence[Row]]) -> list[Row]:
        rows, video = clips.readable([row for own in prompts for row in own], stage.skip)
        if video is None:
            return []
        values = {name: value for own in used for name, value in own(video, rows, config.grid).items()}
        found = [
            _row(model, row, name, value[i].item()) for i, row in enumerate(rows) for name, value in values.items()
        ]
        return [row for row in found if math.isfinite(row["value"])]

    num_prompts = max(1, clips_at_once(config.clip_size, _BATCH) // config.evaluate.samples)  # samples stay together
    return stage.map_batches(f"measure {model}", list(clips.by_prompt.values()), num_prompts, measure, MEASURES_TABLE)


def _row(model: str, clip: Row, name: str, value: float) -> Row:
    return {"model": model, "prompt_id": clip["prompt_id"], "seed": clip["seed"], "measure": name, "value": value}


def compare(measured: pa.Table, num_resamples: int, seed: int) -> list[dict[str, object]]:
    """Rows of tables.METRICS: base against aligned, paired by prompt, with bootstrap intervals.

    Prompts that one of the two models lacks are left out; a measure of fewer than two prompts too.
    """
    means = measured.group_by(["measure", "model", "prompt_id"]).aggregate([("value", "mean")])
    by_measure: dict[str, dict[str, dict[str, float]]] = {}
    for row in means.to_pylist():
        by_measure.setdefault(row["measure"], {}).setdefault(row["prompt_id"], {})[row["model"]] = row["value_mean"]
    rows: list[dict[str, object]] = []
    for name, measure in MEASURES.items():
        both = [own for _, own in sorted(by_measure.get(name, {}).items()) if own.keys() == {"base", "aligned"}]
        if len(both) < 2:
            continue
        base, aligned = (np.array([own[model] for own in both]) for model in ("base", "aligned"))
        interval = statistics.paired_bootstrap(base, aligned, num_resamples=num_resamples, seed=seed)
        compared = {"base": base.mean(), "aligned": aligned.mean(), "difference": interval.mean}
        rows.append(
            {"measure": name, **dataclasses.asdict(measure), **compared, "low": interval.low, "high": interval.high}
        )
    return rows
