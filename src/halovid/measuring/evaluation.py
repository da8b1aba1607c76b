"""Measures the clips of a model, and holds the measures of two models against each other."""

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

EVALUATION_SEED = 1  # added to the run's seed: evaluation has other noise than the candidates
_BATCH = 32


def measure_clips(stage: StageFolder, run_dir: Path, model: str, config: RunConfig) -> pa.Table:
    """All measures of the clips that a model made in a stage's folder, rows of tables.MEASURES.

    Clips that can't be read are listed as skipped. A clip has no row of a measure that it has no value of: diversity
    needs another sample of its prompt.
    """
    prompts = list(ClipFolder(stage.path, config.clip_size).by_prompt.values())
    num_prompts = max(1, clips_at_once(config.clip_size, _BATCH) // config.evaluate.samples)  # samples stay together
    work = MeasureClips(config, run_dir, stage.path, model)
    return stage.map_batches(f"measure {model}", prompts, num_prompts, work, MEASURES_TABLE)


@dataclass(frozen=True)
class MeasureClips:
    """Work on prompts, the rows of whose clips are given: their clips in `folder`, which `model` made, are measured."""

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
            values = {key: value for tool in instruments for key, value in tool.measure(clips, skip).items()}
            measured = [
                _measure_row(self.model, row, key, value[index].item())
                for index, row in enumerate(rows)
                for key, value in values.items()
            ]
            return [row for row in measured if math.isfinite(row["value"])]

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
    """Rows of tables.METRICS: base against aligned, paired by prompt, with bootstrap intervals.

    Prompts that one of the two models lacks are left out; a measure of fewer than two prompts too.
    """
    grouped = measured.group_by(["measure", "model", "prompt_id"]).aggregate([("value", "mean"), ("value", "count")])
    by_measure: dict[str, dict[str, dict[str, Row]]] = {}
    for row in grouped.to_pylist():
        by_measure.setdefault(row["measure"], {}).setdefault(row["prompt_id"], {})[row["model"]] = row
    rows: list[dict[str, Any]] = []
    for measure_id, measure in MEASURES.items():
        prompts = [models for _, models in sorted(by_measure.get(measure_id, {}).items())]
        both = [models for models in prompts if models.keys() == {"base", "aligned"}]
        if len(both) < 2:
            continue
        base, aligned = (np.array([models[name]["value_mean"] for models in both]) for name in ("base", "aligned"))
        interval = statistics.paired_bootstrap(base, aligned, num_resamples=num_resamples, seed=seed)
        rows.append(
            {"group": measure.group, "measure": measure_id, "unit": measure.unit, "better": measure.better}
            | {"base": base.mean(), "aligned": aligned.mean(), "difference": interval.mean}
            | {"low": interval.low, "high": interval.high, "prompts": len(both)}
            | {f"{name}_clips": sum(models[name]["value_count"] for models in both) for name in ("base", "aligned")}
        )
    return rows
