"""generate: prompts -> candidate clips.

    halovid generate RECIPE.yaml RUN

Reads the prompts that the recipe names. Writes RUN/generate: a clip folder, see `halovid.clips.folder`.
"""

from __future__ import annotations

from pathlib import Path

from halovid.clips.conditions import encode_conditions
from halovid.clips.prompts import load_prompts
from halovid.config.run import RunConfig
from halovid.models import check_model, model_identity
from halovid.stages import STAGES
from halovid.stages.sampling import SampleClips, sample_clips
from halovid.store.folders import open_stage


def check(config: RunConfig) -> None:
    """Raises InputError when the prompts can't be read, or the model makes no clips of the recipe's size."""
    load_prompts(config.generate.prompts)
    check_model(config.generator)


def run(config: RunConfig, run_dir: Path) -> None:
    """Samples `generate.candidates` clips of every prompt; prompts that can't be used are listed as skipped."""
    prompts, refused = load_prompts(config.generate.prompts)
    depends = config.part("seed", "dtype", "generator", "generate") | {
        "model": model_identity(config.generator),
        "texts": [prompt.text for prompt in prompts],
    }
    with open_stage(run_dir, "generate", depends, STAGES["generate"].reads(config)) as stage:
        if stage is None:
            return
        for item, reason in refused:
            stage.skip(item, reason)
        stage.use_threads(config.threads)
        encode_conditions(stage.path, prompts, config)
        work = SampleClips(config, stage.path, config.seed, guidance_scales=config.generate.guidance_scales)
        sample_clips(stage, work, prompts, config.generate.candidates, "generate")
