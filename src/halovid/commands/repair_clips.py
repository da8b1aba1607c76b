"""Repairs clips without training: those of a folder, or new ones of some prompts.

    halovid repair RECIPE.yaml RUN --reward MODEL (--prompts FILE | --clips DIR) [--weights FOLDER]

RUN becomes a run of two stages, `generate` and `repair`, so that what is interrupted continues. The repaired clips are
RUN/repair/clips, and RUN/repair/repairs.parquet tells what every round did to each of them and what it cost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halovid.commands.exchange import import_run
from halovid.config.recipes import make_config
from halovid.config.run import RunConfig
from halovid.formats import folder as folder_format
from halovid.rewards.network import find_reward
from halovid.stages import check_stages, run_stage
from halovid.store.errors import InputError


def repair_clips(
    config: RunConfig,
    run_dir: Path,
    *,
    prompts: Path | None = None,
    clips: Path | None = None,
    reward: Path | None = None,
    weights: Path | None = None,
) -> None:
    """Samples or imports clips, and repairs them.

    Args:
        config: gives the generator, how many candidates are sampled, and in its section `repair` how many of them are
            repaired, and how; the section's defaults if it has none.
        prompts: the prompts to sample clips of.
        clips: a folder of clips to repair instead, all of them; prompts come from its prompts.csv, or else from the
            names of the clips.
        reward: the folder of a reward model, or a run that has one; None takes what the recipe's section `score` names.
        weights: trained weights of the generator, as RUN/align/weights of a run.

    Raises:
        InputError: there are both prompts and clips or neither, or no reward model.
    """
    if (prompts is None) == (clips is None):
        raise InputError("give the prompts of new clips with --prompts, or a folder of clips with --clips")
    config = _changed(config, prompts, clips, reward, weights)
    if config.score.uses_run_network:
        raise InputError(
            "nothing says how good a patch is: name a reward model, or a run that has one, with --reward, or a "
            "released model with --set score.released=..."
        )
    stages = ["repair"] if clips else ["generate", "repair"]
    check_stages(stages, config, run_dir)
    if clips is not None:
        import_run("folder" if (clips / folder_format.TABLE).is_file() else "vbench", clips, run_dir, config)
    for stage in stages:
        run_stage(stage, config, run_dir)


def _changed(
    config: RunConfig, prompts: Path | None, clips: Path | None, reward: Path | None, weights: Path | None
) -> RunConfig:
    """The configuration with what the command line names."""
    raw: dict[str, Any] = config.model_dump()
    raw["repair"] = raw["repair"] or {}
    if reward is not None:
        raw["score"] |= {"trained": find_reward(reward.resolve()), "released": None, "server": None}
    if weights is not None:
        raw["generator"]["weights"] = weights.resolve()
    if prompts is not None:
        raw["generate"]["prompts"] |= {"file": prompts.resolve()}
    if clips is not None:
        raw["repair"]["per_prompt"] = 10_000  # all clips of the folder, however many share a prompt
    return make_config(raw)
