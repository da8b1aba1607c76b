"""baseline: the base generator on prompts that no stage has seen.

    halovid baseline RECIPE.yaml RUN

Reads nothing of the run, but with `evaluate.reward` RUN/reward, unless a released or served model gives the rewards;
writes RUN/baseline: a clip folder and measures.parquet (one row per clip and measure). It stands apart from `evaluate`,
so that another alignment can be evaluated without sampling the base again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from halovid.clips.folder import sample_clips
from halovid.clips.prompts import load_prompts
from halovid.config.run import RunConfig
from halovid.measuring.measures import EVALUATION_SEED, measure_clips
from halovid.models import model_identity, open_generator
from halovid.records import Prompt
from halovid.rewards.rewarder import rewarder_identity
from halovid.stages import STAGES
from halovid.store.errors import InputError
from halovid.store.folders import open_stage
from halovid.world.captions import parse_caption


def check(config: RunConfig) -> None:
    """Raises InputError when the held-out prompts can't be read, or not by the inspector that is to measure them."""
    prompts, _ = load_prompts(config.evaluate.prompts)
    if config.evaluate.truth == "inspector":
        _require_captions(prompts)


def run(config: RunConfig, run_dir: Path) -> None:
    """Samples and measures."""
    check(config)
    prompts, refused = load_prompts(config.evaluate.prompts)
    depends = config.part("seed", "dtype", "grid", "generator") | {
        "prompts": [prompt.text for prompt in prompts],
        "samples": config.evaluate.samples,
        "instruments": [config.evaluate.truth, config.evaluate.critic, config.evaluate.judge, config.evaluate.reward],
        "judge": config.part("judge") if config.evaluate.judge else None,
        "model": model_identity(config.generator),
    }
    if config.evaluate.reward:
        depends |= {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "baseline", depends, STAGES["baseline"].reads(config)) as stage:
        if stage is None:
            return
        for item, reason in refused:
            stage.skip(item, reason)
        stage.use_threads(config.threads)
        generator = open_generator(config)
        seed, samples = config.seed + EVALUATION_SEED, config.evaluate.samples
        sample_clips(stage, generator, config.generator, prompts, seed, samples, "sample base")
        stage.write("measures.parquet", measure_clips(stage, run_dir, "base", config))


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
