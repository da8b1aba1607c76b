"""The stages of a run, and the one table that says what each does and reads. They meet only on disk."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from halovid.store.errors import MachineError
from halovid.store.files import remembered_hashes
from halovid.store.troubles import explain_trouble

if TYPE_CHECKING:  # the table of stages is read for --help, which must not wait for torch
    from halovid.config.run import RunConfig


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    help: what it does, reads and writes.  reads: recipe -> names of the stages whose results it reads.
    saves_memory: which settings to lower when memory is lacking; messages put it after the word "lower".
    unneeded: why a recipe can do without the stage; empty for stages that every run has.
    """

    help: str
    reads: Callable[[RunConfig], Sequence[str]]
    saves_memory: str
    unneeded: str = ""


def _reads_of_score(config: RunConfig) -> Sequence[str]:
    return [*config.scored_folders, *(["reward"] if config.trains_reward else [])]


def _reads_of_pair(config: RunConfig) -> Sequence[str]:
    sources = set(config.pair.sources)
    scored = ["score"] if config.scored_folders else []
    restored = ["restore"] if config.pair.remade else []
    repaired = ["repair"] if "before_repair" in sources or "repaired" in sources else []
    seen = config.paired_folders if config.pair.min_motion else ["generate"] if "preferences" in sources else []
    return list(dict.fromkeys([*scored, *restored, *repaired, *seen]))


def _reads_of_align(config: RunConfig) -> Sequence[str]:
    on_rollouts = config.align.rollouts is not None
    rewarded = (config.align.sample_prompts > 0 or on_rollouts) and config.trains_reward
    return [*config.paired_folders, *([] if on_rollouts else ["pair"]), *(["reward"] if rewarded else [])]


def _reads_of_baseline(config: RunConfig) -> Sequence[str]:
    return ["reward"] if "reward" in config.evaluate.instruments and config.trains_reward else []


def _reads_of_evaluate(config: RunConfig) -> Sequence[str]:
    rewarded = (config.evaluate.searches or "reward" in config.evaluate.instruments) and config.trains_reward
    aligned = config.evaluate.generator == "aligned"
    return ["baseline", *(["align"] if aligned else []), *(["reward"] if rewarded else [])]


def _reads_of_report(config: RunConfig) -> Sequence[str]:
    examined = config.trains_reward and config.knows_truth
    repaired = (
        ["generate", "repair"] if "repair" in config.paired_folders and config.evaluate.generator == "aligned" else []
    )
    return ["evaluate", *(["examine"] if examined else []), *(["reward"] if config.trains_reward else []), *repaired]


_CLIP_SIZE = "generator.num_frames, height and width"
_SAMPLING = f"generator.batch_size, or {_CLIP_SIZE}"
_REPLACED = "what is imported takes its place"
_TRAINS_NO_REWARD = "this recipe trains no reward model"
_TRAINS_NO_GENERATOR = "evaluate.generator is the base"

# In the order in which a run does them: every stage reads only those above it.
STAGES: dict[str, Stage] = {
    "generate": Stage(
        "Sample candidate clips of every prompt. Reads the recipe's prompts; writes RUN/generate: mp4 clips, "
        "their latents, clips.parquet.",
        lambda config: [],
        saves_memory=_SAMPLING,
    ),
    "judge": Stage(
        "Have a judge label the clips and their patches. Reads RUN/generate; writes RUN/judge: "
        "labels.parquet, votes.parquet.",
        lambda config: ["generate"],
        saves_memory=_CLIP_SIZE,
        unneeded=_TRAINS_NO_REWARD,
    ),
    "reward": Stage(
        "Train the reward model: on clip labels, then on patch labels. Reads RUN/generate, RUN/judge; writes "
        "RUN/reward: reward.safetensors, agreement.parquet.",
        lambda config: ["generate", "judge"],
        saves_memory="reward.batch_size, or raise reward.downscale; a language model also needs less with "
        "reward.gradient_checkpointing: true",
        unneeded=_TRAINS_NO_REWARD,
    ),
    "good": Stage(
        "Encode good clips of the prompts, which no model made. Reads the prompts of RUN/generate; writes "
        "RUN/good: mp4 clips, their latents, clips.parquet.",
        lambda config: ["generate"],
        saves_memory=f"good.batch_size, or {_CLIP_SIZE}",
        unneeded="no pair needs them",
    ),
    "repair": Stage(
        "Repair the best candidates: the base model makes their defective regions anew as long as the rewards rise. "
        "Reads RUN/generate, RUN/reward; writes RUN/repair: mp4 clips, their latents, repairs.parquet.",
        lambda config: ["generate", *(["reward"] if config.score.uses_run_network else [])],
        saves_memory=f"repair.batch_size, or {_CLIP_SIZE}",
        unneeded="no pair needs them",
    ),
    "restore": Stage(
        "Let the base model make clips anew: the same layout with its own defects. Reads RUN/generate, "
        "RUN/good or RUN/repair; writes RUN/restore: mp4 clips, their latents, pairs.parquet.",
        lambda config: sorted({"generate", config.restore.originals}) if config.restore else ["generate"],
        saves_memory=f"restore.batch_size, or {_CLIP_SIZE}",
        unneeded="no pair needs them",
    ),
    "score": Stage(
        "Reward every clip and every patch by the reward model. Reads the clips, RUN/reward; writes "
        "RUN/score: one reward per clip and per patch in rewards.parquet.",
        _reads_of_score,
        saves_memory=f"score.batch_size, or {_CLIP_SIZE}",
        unneeded="no pair is decided by rewards",
    ),
    "pair": Stage(
        "Build preference pairs with the margin of the clips and of every patch. Reads RUN/score, "
        "RUN/restore; writes RUN/pair: pairs.parquet.",
        _reads_of_pair,
        saves_memory="generate.candidates, or pair.limit",
        unneeded=_TRAINS_NO_GENERATOR,
    ),
    "align": Stage(
        "Train the generator, on the pairs or on clips that it makes meanwhile, with Gran-DPO or another objective. "
        "Reads RUN/pair and its clips, or RUN/generate for the prompts; writes RUN/align: weights/, snapshots/, "
        "tensorboard/, log.jsonl, rollouts.parquet.",
        _reads_of_align,
        saves_memory=f"align.batch_size (or raise align.micro_batches, which trains the same), generator.batch_size "
        f"for the clips sampled along the way, or {_CLIP_SIZE}; align.gradient_checkpointing: true and "
        f"align.method: lora need less",
        unneeded=_TRAINS_NO_GENERATOR,
    ),
    "baseline": Stage(
        "Sample and measure the base generator on held-out prompts. Reads the held-out prompts; writes "
        "RUN/baseline: mp4 clips, measures.parquet.",
        _reads_of_baseline,
        saves_memory=_SAMPLING,
    ),
    "examine": Stage(
        "Hold the reward model against the truth, where the truth is known. Reads RUN/baseline, RUN/reward; "
        "writes RUN/examine: agreement.parquet.",
        lambda config: ["baseline", *(["reward"] if config.score.uses_run_network else [])],
        saves_memory="score.batch_size, or examine.clips",
        unneeded="there is no reward model of this run to hold against a known truth",
    ),
    "evaluate": Stage(
        "Sample and measure the aligned generator, and compare it with the base. Reads RUN/baseline, "
        "RUN/align; writes RUN/evaluate: mp4 clips, measures.parquet, metrics.parquet.",
        _reads_of_evaluate,
        saves_memory=_SAMPLING,
    ),
    "report": Stage(
        "Write the HTML report. Reads the results of the other stages; writes RUN/report: report.html, one "
        "self-contained page.",
        _reads_of_report,
        saves_memory="report.clips",
    ),
}


def required_stages(config: RunConfig, target: str = "report", available: Collection[str] = ()) -> list[str]:
    """The stages that `target` needs under this recipe, itself included, in the order of the table.

    Args:
        available: stages whose results exist already, such as imported ones; what these read is not required for them.
    """
    required, unvisited = {target}, [target]
    while unvisited:
        name = unvisited.pop()
        reads = [] if name in available else STAGES[name].reads(config)
        unvisited += [stage for stage in reads if stage not in required]
        required.update(reads)
    return [name for name in STAGES if name in required]


def planned_run(config: RunConfig, imported: Collection[str]) -> str:
    """One line that says what a run will do: its stages, the imported ones, and why others are left out."""
    required = required_stages(config, available=imported)
    would_be_required = required_stages(config)
    left_out: dict[str, list[str]] = {}  # reason -> stages
    for name in STAGES:
        if name not in required:
            replaced = name in would_be_required
            left_out.setdefault(_REPLACED if replaced else STAGES[name].unneeded, []).append(name)
    plan = ["run: " + ", ".join(name for name in required if name not in imported)]
    if imported:
        plan.append("imported, kept: " + ", ".join(imported))
    if left_out:
        plan.append("left out: " + ", ".join(f"{', '.join(names)} ({reason})" for reason, names in left_out.items()))
    return "; ".join(plan)


def run_stage(name: str, config: RunConfig, run_dir: Path) -> None:
    """Runs one stage; its module is imported only now, so that --help and mistakes in a recipe come at once.

    Raises:
        MachineError: the machine lacks something; the sentence names the stage's own settings.
    """
    try:
        with remembered_hashes(run_dir / ".hashes.json"):
            importlib.import_module(f"halovid.stages.{name}").run(config, run_dir)
    except Exception as error:
        message = explain_trouble(error, STAGES[name].saves_memory)
        if message is None:
            raise
        raise MachineError(f"{name}: {message}") from error


def check_stages(names: Sequence[str], config: RunConfig, run_dir: Path) -> list[str]:
    """Looks for what would stop one of these stages after hours: missing files, packages, models, keys.

    A stage module that can tell beforehand has a function `check(config)`, which raises an InputError, or
    `warnings(config)`, which gives sentences about what the stage lacks unless its answers are on disk already.

    Returns:
        These sentences, of stages that are not complete in `run_dir`.
    """
    sentences: list[str] = []
    for name in names:
        module = importlib.import_module(f"halovid.stages.{name}")
        if hasattr(module, "check"):
            module.check(config)
        if hasattr(module, "warnings") and not (run_dir / name / "manifest.json").exists():
            sentences += [f"{name}: {sentence}" for sentence in module.warnings(config)]
    return sentences
