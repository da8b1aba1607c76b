"""evaluate: the aligned generator against the base, on the prompts and seeds of the baseline.

    halovid evaluate RECIPE.yaml RUN

Reads RUN/baseline and RUN/align; with `evaluate.best_of`, which trains nothing, the reward model instead of the latter.
Writes RUN/evaluate: a clip folder, measures.parquet (one row per clip and measure, of both models), metrics.parquet
(base against aligned with intervals).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from halovid.clips.conditions import copy_conditions, read_negative
from halovid.clips.folder import ClipFolder, Draw, sample_clips
from halovid.config.run import RunConfig
from halovid.measuring.best_of import BestOf
from halovid.measuring.evaluation import EVALUATION_SEED, compare, measure_clips
from halovid.models import Sampler, model_identity, open_model
from halovid.rewards.rewarder import open_rewarder, rewarder_identity
from halovid.stages import STAGES
from halovid.store.errors import InputError
from halovid.store.folders import open_stage
from halovid.store.tables import MEASURES, METRICS, read_table, rows_to_table
from halovid.training.policy import snapshot_folder


def run(config: RunConfig, run_dir: Path) -> None:
    """Samples, measures and compares."""
    depends = config.part("seed", "dtype", "grid", "generator", "evaluate") | {
        "model": model_identity(config.generator)
    }
    if config.evaluate.best_of > 1 or "reward" in config.evaluate.instruments:
        depends |= {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "evaluate", depends, STAGES["evaluate"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        base = ClipFolder(run_dir / "baseline", config.clip_size)
        prompts = base.prompts
        copy_conditions(base.folder, stage.path)
        model, draw = _compared_model(config, run_dir)
        seed, samples = config.seed + EVALUATION_SEED, config.evaluate.samples
        sample_clips(stage, model, config.generator, prompts, seed, samples, "sample aligned", draw)
        aligned = measure_clips(stage, run_dir, "aligned", config)
        measured = pa.concat_tables([read_table(run_dir / "baseline" / "measures.parquet", MEASURES), aligned])
        stage.write("measures.parquet", measured)
        comparison = compare(measured, config.evaluate.num_resamples, config.seed)
        stage.write("metrics.parquet", rows_to_table(comparison, METRICS))


def _compared_model(config: RunConfig, run_dir: Path) -> tuple[Sampler, Draw | None]:
    """What is held against the base: the aligned generator, or the base, of which the best of several tries is drawn.

    Raises:
        InputError: align kept no weights of `evaluate.step`, or the rewarder can't be opened.
    """
    model = open_model(config, {"denoiser", "autoencoder"}, read_negative(run_dir / "baseline", config))
    if config.evaluate.best_of > 1:
        rewarder = open_rewarder(config, run_dir)
        return model, BestOf(model, rewarder, config.evaluate.best_of, config.evaluate.best_by)
    weights = run_dir / "align" / "weights"
    if config.evaluate.step is not None:
        weights = snapshot_folder(run_dir / "align", config.evaluate.step)
        if not weights.exists():
            raise InputError(f"evaluate.step is {config.evaluate.step}, but align kept no weights of it: {weights}")
    model.load_weights(weights)
    return model, None
