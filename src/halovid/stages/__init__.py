"""The stages of a run, and the one table that says what each does and reads. They meet only on disk."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from halovid.store.files import remembered_hashes

if TYPE_CHECKING:  # the table of stages is read for --help, which must not wait for torch
    from halovid.config.run import RunConfig


@dataclass(frozen=True)
class Stage:
    """A stage: what it does, and the stages whose results it reads under a recipe."""

    help: str
    reads: Callable[[RunConfig], Sequence[str]]


def _reads_of_score(config: RunConfig) -> Sequence[str]:
    return [*config.scored_folders, *(["reward"] if config.trains_reward else [])]


def _reads_of_pair(config: RunConfig) -> Sequence[str]:
    sources = set(config.pair.sources)
    scored = ["score"] if config.scored_folders else []
    restored = ["restore"] if config.pair.remade else []
    return [*scored, *restored, *(["generate"] if "preferences" in sources else [])]


def _reads_of_align(config: RunConfig) -> Sequence[str]:
    watched = config.align.sample_prompts > 0 and config.trains_reward
    return [*config.paired_folders, "pair", *(["reward"] if watched else [])]


def _reads_of_baseline(config: RunConfig) -> Sequence[str]:
    return ["reward"] if "reward" in config.evaluate.instruments and config.trains_reward else []


def _reads_of_evaluate(config: RunConfig) -> Sequence[str]:
    best_of = config.evaluate.best_of > 1
    rewarded = (best_of or "reward" in config.evaluate.instruments) and config.trains_reward
    return ["baseline", *([] if best_of else ["align"]), *(["reward"] if rewarded else [])]


def _reads_of_report(config: RunConfig) -> Sequence[str]:
    examined = config.trains_reward and config.knows_truth
    return ["evaluate", *(["examine"] if examined else []), *(["reward"] if config.trains_reward else [])]


# In the order in which a run does them: every stage reads only those above it.
STAGES: dict[str, Stage] = {
    "generate": Stage(
        "Sample candidate clips of every prompt. Reads the recipe's prompts; writes RUN/generate: mp4 clips, "
        "their latents, clips.parquet.",
        lambda config: [],
    ),
    "judge": Stage(
        "Have a judge label the clips and their patches. Reads RUN/generate; writes RUN/judge: "
        "labels.parquet, votes.parquet.",
        lambda config: ["generate"],
    ),
    "reward": Stage(
        "Train the reward model: on clip labels, then on patch labels. Reads RUN/generate, RUN/judge; writes "
        "RUN/reward: reward.safetensors, agreement.parquet.",
        lambda config: ["generate", "judge"],
    ),
    "good": Stage(
        "Encode good clips of the prompts, which no model made. Reads the prompts of RUN/generate; writes "
        "RUN/good: mp4 clips, their latents, clips.parquet.",
        lambda config: ["generate"],
    ),
    "restore": Stage(
        "Let the base model make clips anew: the same layout with its own defects. Reads RUN/generate or "
        "RUN/good; writes RUN/restore: mp4 clips, their latents, pairs.parquet.",
        lambda config: sorted({"generate", config.restore.originals}) if config.restore else ["generate"],
    ),
    "score": Stage(
        "Reward every clip and every patch by the reward model. Reads the clips, RUN/reward; writes "
        "RUN/score: one reward per clip and per patch in rewards.parquet.",
        _reads_of_score,
    ),
    "pair": Stage(
        "Build preference pairs with the margin of the clips and of every patch. Reads RUN/score, "
        "RUN/restore; writes RUN/pair: pairs.parquet.",
        _reads_of_pair,
    ),
    "align": Stage(
        "Train the generator on the pairs, with Gran-DPO or another objective. Reads RUN/pair and its clips; "
        "writes RUN/align: weights/, snapshots/, tensorboard/, log.jsonl.",
        _reads_of_align,
    ),
    "baseline": Stage(
        "Sample and measure the base generator on held-out prompts. Reads the held-out prompts; writes "
        "RUN/baseline: mp4 clips, measures.parquet.",
        _reads_of_baseline,
    ),
    "examine": Stage(
        "Hold the reward model against the truth, where the truth is known. Reads RUN/baseline, RUN/reward; "
        "writes RUN/examine: agreement.parquet.",
        lambda config: ["baseline", *(["reward"] if config.score.uses_run_network else [])],
    ),
    "evaluate": Stage(
        "Sample and measure the aligned generator, and compare it with the base. Reads RUN/baseline, "
        "RUN/align; writes RUN/evaluate: mp4 clips, measures.parquet, metrics.parquet.",
        _reads_of_evaluate,
    ),
    "report": Stage(
        "Write the HTML report. Reads the results of the other stages; writes RUN/report: report.html, one "
        "self-contained page.",
        _reads_of_report,
    ),
}


def required_stages(config: RunConfig, target: str = "report", given: Collection[str] = ()) -> list[str]:
    """The stages that `target` needs under this recipe, itself included, in the order of the table.

    Args:
        given: stages whose results are there already, as imported ones are: what they read is not needed for them.
    """
    required, open_ends = {target}, [target]
    while open_ends:
        name = open_ends.pop()
        reads = [] if name in given else STAGES[name].reads(config)
        open_ends += [stage for stage in reads if stage not in required]
        required.update(reads)
    return [name for name in STAGES if name in required]


def run_stage(name: str, config: RunConfig, run_dir: Path) -> None:
    """Runs one stage; its module is imported only now, so that --help and mistakes in a recipe come at once."""
    with remembered_hashes(run_dir / ".hashes.json"):
        importlib.import_module(f"halovid.stages.{name}").run(config, run_dir)


def check_stages(names: Sequence[str], config: RunConfig) -> None:
    """Looks for what would stop one of these stages after hours: missing files, keys, packages, models.

    A stage module that can tell beforehand has a function `check(config)`, which raises an InputError.
    """
    for name in names:
        check = getattr(importlib.import_module(f"halovid.stages.{name}"), "check", None)
        if check is not None:
            check(config)
