"""evaluate: the aligned generator against the base, on the prompts and seeds of the baseline.

    halovid evaluate RECIPE.yaml RUN

Reads RUN/baseline and RUN/align. With `evaluate.generator: base` the base generator with a search, best-of-N or repair,
stands in for the aligned one, and RUN/align is not read. Reads RUN/reward for a search, or if `evaluate.instruments`
has "reward", when the run trains its own reward model.
Writes RUN/evaluate: a clip folder, measures.parquet with a row per clip and measure of both models, and
metrics.parquet, which compares aligned with base measure by measure, with intervals.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from halovid.clips.conditions import copy_conditions
from halovid.clips.folder import ClipFolder
from halovid.config.run import RunConfig
from halovid.measuring.evaluation import EVALUATION_SEED, compare, measure_clips
from halovid.models import model_identity
from halovid.rewards.rewarder import rewarder_identity
from halovid.stages import STAGES
from halovid.stages.sampling import SampleClips, sample_clips
from halovid.store.errors import InputError
from halovid.store.folders import open_stage
from halovid.store.tables import MEASURES, METRICS, read_table, rows_to_table
from halovid.training.policy import snapshot_folder


def run(config: RunConfig, run_dir: Path) -> None:
    """Samples the prompts and seeds of the baseline with the aligned generator, measures the clips and compares."""
    depends = config.part("seed", "dtype", "grid", "generator", "evaluate") | {
        "model": model_identity(config.generator)
    }
    if config.evaluate.searches or "reward" in config.evaluate.instruments:
        depends |= {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "evaluate", depends, STAGES["evaluate"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        base = ClipFolder(run_dir / "baseline", config.clip_size)
        prompts = base.prompts
        copy_conditions(base.folder, stage.path)
        sample_clips(stage, _sampling(config, run_dir), prompts, config.evaluate.samples, "sample aligned")
        aligned = measure_clips(stage, run_dir, "aligned", config)
        measured = pa.concat_tables([read_table(run_dir / "baseline" / "measures.parquet", MEASURES), aligned])
        stage.write("measures.parquet", measured)
        comparison = compare(measured, config.evaluate.num_resamples, config.seed)
        stage.write("metrics.parquet", rows_to_table(comparison, METRICS))


def _sampling(config: RunConfig, run_dir: Path) -> SampleClips:
    """How the clips that are compared with the base's are sampled: by which generator, with which search.

    Raises:
        InputError: align kept no weights of `evaluate.step`.
    """
    folder, seed = run_dir / "evaluate", config.seed + EVALUATION_SEED
    search_run = run_dir if config.evaluate.searches else None
    if config.evaluate.generator == "base":
        return SampleClips(config, folder, seed, search_run=search_run)
    weights = run_dir / "align" / "weights"
    if config.evaluate.step is not None:
        weights = snapshot_folder(run_dir / "align", config.evaluate.step)
        if not weights.exists():
            raise InputError(f"evaluate.step is {config.evaluate.step}, but align kept no weights of it: {weights}")
    return SampleClips(config, folder, seed, weights, search_run)
