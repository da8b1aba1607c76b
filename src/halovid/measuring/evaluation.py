"""Measures the clips of a model, and compares the measures of the base and the aligned model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from halovid.clips.folder import ClipFolder
from halovid.config.run import RunConfig
from halovid.maths import statistics
from halovid.measuring.instruments import MEASURES, open_instruments
from halovid.records import ClipBatch
from halovid.store.folders import StageFolder
from halovid.store.runtime import clips_at_once
from halovid.store.tables import MEASURES as MEASURES_TABLE
from halovid.store.work import Row, Skip, Worker

EVALUATION_SEED = 1  # added to the run's seed, so that evaluation samples from other noise than the candidates
_BATCH = 32  # clips measured at once, at most


def measure_clips(stage: StageFolder, run_dir: Path, model: str, config: RunConfig) -> pa.Table:
    """A row of tables.MEASURES for each measure of each clip in a stage's folder; `model` is "base" or "aligned".

    Clips that can't be read are listed as skipped. There is no row where a clip has no value of a measure, as the only
    sample of a prompt has no diversity.
    """
    prompts = list(ClipFolder(stage.path, config.clip_size).by_prompt.values())
    # a batch is a number of prompts: all samples of a prompt are measured together
    prompts_at_once = max(1, clips_at_once(config.clip_size, _BATCH) // config.evaluate.samples)
    work = MeasureClips(config, run_dir, stage.path, model)
    return stage.map_batches(f"measure {model}", prompts, prompts_at_once, work, MEASURES_TABLE)


@dataclass(frozen=True)
class MeasureClips:
    """Work on prompts, each given as the rows of its clips in `folder`: measures the clips, which `model` made."""

    config: RunConfig
    run_dir: Path
    folder: Path
    model: str

    def open(self) -> Worker[Sequence[Row]]:
        """See `Work.open`."""
        folder = ClipFolder(self.folder, self.config.clip_size)
        instruments = open_instruments(self.config.evaluate.instruments, self.config, self.run_dir)

        def measure(prompts: Sequence[Sequence[Row]], skip: Skip) -> list[Row]:
            rows, video = folder.readable([row for samples in prompts for row in samples], skip)
            if video is None:
                return []
            clips = ClipBatch(video, rows, folder.geometry, self.config.grid, folder.conditioning)
            values = {
                measure_id: values_of_clips
                for instrument in instruments
                for measure_id, values_of_clips in instrument.measure(clips, skip).items()
            }
            measure_rows = [
                _measure_row(self.model, clip, measure_id, values_of_clips[index].item())
                for index, clip in enumerate(rows)
                for measure_id, values_of_clips in values.items()
            ]
            return [row for row in measure_rows if math.isfinite(row["value"])]

        return measure


def _measure_row(model: str, clip: Row, measure_id: str, value: float) -> Row:
    return {
        "model": model,
        "prompt_id": clip["prompt_id"],
        "seed": clip["seed"],
        "measure": measure_id,
        "value": value,
    }


def compare(measured: pa.Table, num_resamples: int, seed: int) -> list[dict[str, Any]]:
    """A row of tables.METRICS for each measure: the difference of aligned and base with its bootstrap interval.

    The models are compared prompt by prompt. A prompt that one of them has no value of is left out, and so is a measure
    with fewer than two prompts.
    """
    grouped = measured.group_by(["measure", "model", "prompt_id"]).aggregate([("value", "mean"), ("value", "count")])
    by_measure: dict[str, dict[str, dict[str, Row]]] = {}
    for row in grouped.to_pylist():
        by_measure.setdefault(row["measure"], {}).setdefault(row["prompt_id"], {})[row["model"]] = row
    rows: list[dict[str, Any]] = []
    for measure_id, measure in MEASURES.items():
        prompts = [models for _, models in sorted(by_measure.get(measure_id, {}).items())]
        compared = [models for models in prompts if models.keys() == {"base", "aligned"}]
        if len(compared) < 2:
            continue
        base, aligned = (np.array([models[name]["value_mean"] for models in compared]) for name in ("base", "aligned"))
        interval = statistics.paired_bootstrap(base, aligned, num_resamples=num_resamples, seed=seed)
        rows.append(
            {"group": measure.group, "measure": measure_id, "unit": measure.unit, "better": measure.better}
            | {"base": base.mean(), "aligned": aligned.mean(), "difference": interval.mean}
            | {"low": interval.low, "high": interval.high, "prompts": len(compared)}
            | {f"{name}_clips": sum(models[name]["value_count"] for models in compared) for name in ("base", "aligned")}
        )
    return rows
