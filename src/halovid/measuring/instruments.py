"""Instruments, which measure clips, by the names that `evaluate.instruments` uses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from halovid.config.run import RunConfig
from halovid.records import ClipBatch, Measure, Prompt
from halovid.store.errors import InputError, shorten
from halovid.store.lazy import load_named
from halovid.store.work import Skip


class Instrument(Protocol):
    """Measures clips."""

    @property
    def measures(self) -> Mapping[str, Measure]:
        """Measure id -> how the measure is shown, of every measure that `measure` returns."""

    def measure(self, clips: ClipBatch, skip: Skip) -> dict[str, Tensor]:
        """Measure id -> its value for each clip, float [B]; NaN where a clip has no value.

        A clip's values must not depend on the rest of the batch, except in measures that compare it with the other
        samples of its prompt. `skip` is called for clips that can't be measured for a reason that users should know.
        """


@dataclass(frozen=True)
class InstrumentEntry:
    """Where an instrument is found, and what it needs.

    instrument: "module:class"; the class method `open(config, run_dir)` returns it ready to measure.
    sections: sections of the recipe that its values depend on, besides the generator and the grid.
    prompt_problem: "module:function" that returns why it can't measure clips of a prompt, or None; None if it can
        measure clips of any prompt.
    size_problem: the same of clips with so many frames, rows and columns.
    """

    instrument: str
    sections: tuple[str, ...] = ()
    prompt_problem: str | None = None
    size_problem: str | None = None


# In the order in which their measures are shown.
INSTRUMENTS = {
    "inspector": InstrumentEntry(
        "halovid.world.instruments:InspectorInstrument",
        prompt_problem="halovid.world.prompts:caption_problem",
        size_problem="halovid.world.worlds:size_problem",
    ),
    "critic": InstrumentEntry(
        "halovid.world.instruments:CriticInstrument", size_problem="halovid.world.worlds:size_problem"
    ),
    "judge": InstrumentEntry("halovid.measuring.judge_rating:JudgeInstrument", sections=("judge",)),
    "reward": InstrumentEntry("halovid.measuring.model_reward:RewardInstrument"),
    "diversity": InstrumentEntry("halovid.measuring.plain:DiversityInstrument"),
    "plain": InstrumentEntry("halovid.measuring.plain:PlainInstrument"),
}


def instrument_measures(name: str) -> Mapping[str, Measure]:
    """Measure id -> measure, of all measures that the named instrument returns."""
    measures: Mapping[str, Measure] = load_named(INSTRUMENTS[name].instrument).measures
    return measures


MEASURES: dict[str, Measure] = {key: value for name in INSTRUMENTS for key, value in instrument_measures(name).items()}


def open_instruments(names: Iterable[str], config: RunConfig, run_dir: Path) -> list[Instrument]:
    """The named instruments, ready to measure clips of the run.

    Raises:
        InputError: one of them can't be opened, such as the reward model of a run that has none.
    """
    return [load_named(INSTRUMENTS[name].instrument).open(config, run_dir) for name in names]


def settings_read(config: RunConfig) -> dict[str, object]:
    """The sections of the recipe that the values of its instruments depend on, for the fingerprint of a stage."""
    return config.part(*{section for name in config.evaluate.instruments for section in INSTRUMENTS[name].sections})


def require_measurable(prompts: Sequence[Prompt], config: RunConfig) -> None:
    """Checks that the recipe's instruments can measure clips of its size and of these prompts.

    Raises:
        InputError: one can't; it names the instrument and the first such prompt.
    """
    for name in config.evaluate.instruments:
        find_problem = INSTRUMENTS[name].size_problem
        problem = load_named(find_problem)(config.clip_size) if find_problem else None
        if problem:
            raise InputError(
                f"evaluate.instruments names {name!r}, which can't measure clips of generator.num_frames, height and "
                f"width: {problem}; change these, or take it out of evaluate.instruments"
            )
        find_problem = INSTRUMENTS[name].prompt_problem
        for prompt in prompts if find_problem else ():
            problem = load_named(str(find_problem))(prompt.text)
            if problem:
                raise InputError(
                    f"evaluate.instruments names {name!r}, which can't measure clips of prompt {prompt.prompt_id}: "
                    f"{problem}; take it out of evaluate.instruments"
                )


def require_measure(measure_id: str) -> str:
    """The id itself, if there is such a measure.

    Raises:
        InputError: there is none; for the title of a measure it gives that measure's id, else the nearest id.
    """
    if measure_id in MEASURES:
        return measure_id
    by_title = {measure.title: key for key, measure in MEASURES.items()}
    near = difflib.get_close_matches(shorten(measure_id), MEASURES, n=1, cutoff=0.0)
    hint = (
        f"that is a title, use the id {by_title[measure_id]!r}."
        if measure_id in by_title
        else f"did you mean {near[0]!r}?"
    )
    raise InputError(f"there is no measure {shorten(measure_id)!r}: {hint} All ids: {', '.join(MEASURES)}")
