"""Instruments: what can measure clips, by the name that `evaluate.instruments` uses."""

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
    """Measures clips. `measures` tells what: measure id -> what people see of it."""

    @property
    def measures(self) -> Mapping[str, Measure]:
        """Every measure that `measure` gives values of."""

    def measure(self, clips: ClipBatch, skip: Skip) -> dict[str, Tensor]:
        """Measure id -> its value of each clip, float [B]; NaN where a clip has no value.

        Each clip's values are its own, whatever is in the batch besides, but for measures of a clip against the other
        samples of its prompt. `skip` is told of clips that can't be measured for a reason that their users should know.
        """


@dataclass(frozen=True)
class InstrumentEntry:
    """How an instrument is found, and what it needs.

    instrument: the name of its class, whose `open(config, run_dir)` gives it ready to measure.
    sections: those of the recipe that its values depend on, besides the generator and the grid.
    prompt_problem: the name of a function that tells why it can't measure clips of a prompt.
    """

    instrument: str
    sections: tuple[str, ...] = ()
    prompt_problem: str | None = None


# In the order in which their measures are shown.
INSTRUMENTS = {
    "inspector": InstrumentEntry(
        "halovid.world.instruments:InspectorInstrument", prompt_problem="halovid.world.prompts:caption_problem"
    ),
    "critic": InstrumentEntry("halovid.world.instruments:CriticInstrument"),
    "judge": InstrumentEntry("halovid.measuring.judge_rating:JudgeInstrument", sections=("judge",)),
    "reward": InstrumentEntry("halovid.measuring.model_reward:RewardInstrument"),
    "diversity": InstrumentEntry("halovid.measuring.plain:DiversityInstrument"),
    "plain": InstrumentEntry("halovid.measuring.plain:PlainInstrument"),
}


def instrument_measures(name: str) -> Mapping[str, Measure]:
    """Measure id -> measure, of all that the named instrument gives values of."""
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
    """The sections of the recipe that the values of its instruments depend on."""
    return config.part(*{section for name in config.evaluate.instruments for section in INSTRUMENTS[name].sections})


def require_measurable(prompts: Sequence[Prompt], config: RunConfig) -> None:
    """Tells before anything is sampled which instrument of the recipe can't measure clips of a prompt.

    Raises:
        InputError: there is such a prompt; the first one is named.
    """
    for name in config.evaluate.instruments:
        find_problem = INSTRUMENTS[name].prompt_problem
        for prompt in prompts if find_problem else ():
            problem = load_named(str(find_problem))(prompt.text)
            if problem:
                raise InputError(
                    f"evaluate.instruments names {name!r}, which can't measure clips of prompt {prompt.prompt_id}: "
                    f"{problem}; take it out of evaluate.instruments"
                )


def require_measure(measure_id: str) -> str:
    """The id itself, when there is such a measure.

    Raises:
        InputError: there is none; it tells the id of a measure that is called by its title, and else the nearest ids.
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
