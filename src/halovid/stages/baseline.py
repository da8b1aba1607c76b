"""baseline: the base generator on prompts that no stage has seen.

    halovid baseline RECIPE.yaml RUN

Reads RUN/reward if `evaluate.instruments` has "reward" and the run trains its own reward model; else nothing of the
run. Writes RUN/baseline: a clip folder, and measures.parquet with a row per clip and measure. It is a stage of its
own, so that another alignment can be evaluated without sampling the base again.
"""

from __future__ import annotations

from pathlib import Path

from halovid.clips.conditions import encode_conditions
from halovid.clips.prompts import load_prompts
from halovid.config.run import RunConfig
from halovid.measuring.evaluation import EVALUATION_SEED, measure_clips
from halovid.measuring.instruments import require_measurable, settings_read
from halovid.models import model_identity
from halovid.rewards.rewarder import rewarder_identity
from halovid.stages import STAGES
from halovid.stages.sampling import SampleClips, sample_clips
from halovid.store.folders import open_stage


def check(config: RunConfig) -> None:
    """Raises InputError when the held-out prompts can't be read, or an instrument can't measure clips of them."""
    prompts, _ = load_prompts(config.evaluate.prompts)
    require_measurable(prompts, config)


def run(config: RunConfig, run_dir: Path) -> None:
    """Samples `evaluate.samples` clips of every held-out prompt with the base generator, and measures them."""
    prompts, refused = load_prompts(config.evaluate.prompts)
    require_measurable(prompts, config)
    depends = config.part("seed", "dtype", "grid", "generator") | {
        "prompts": [prompt.text for prompt in prompts],
        "samples": config.evaluate.samples,
        "instruments": sorted(config.evaluate.instruments),
        "settings of instruments": settings_read(config),
        "model": model_identity(config.generator),
    }
    if "reward" in config.evaluate.instruments:
        depends |= {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "baseline", depends, STAGES["baseline"].reads(config)) as stage:
        if stage is None:
            return
        for item, reason in refused:
            stage.skip(item, reason)
        stage.use_threads(config.threads)
        encode_conditions(stage.path, prompts, config)
        work = SampleClips(config, stage.path, config.seed + EVALUATION_SEED)
        sample_clips(stage, work, prompts, config.evaluate.samples, "sample base")
        stage.write("measures.parquet", measure_clips(stage, run_dir, "base", config))
