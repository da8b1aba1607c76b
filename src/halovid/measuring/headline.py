"""The headline measure, which a report, a run's summary and a study show first, and the verdict in one sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from halovid.maths.numbers import show_interval, show_number
from halovid.maths.statistics import paired_ratio
from halovid.measuring.instruments import MEASURES
from halovid.records import Measure

TRUTH = "defective_sprite_patches"
# Measure id -> what the verdict calls it, from the strongest evidence to the weakest.
HEADLINES = {
    TRUTH: "the truth",
    "critic_defect_probability": "the independent critic's probability of a defect",
    "judge_rating": "the judge's mean rating",
    "reward_clip": "the reward model, which the training itself follows",
    "flow_warp_error": "the flow warp error, a formula that knows nothing of quality",
}
NOTHING_COMPARED = (
    "Nothing tells whether the aligned generator is better: no measure of quality has values of two prompts or more."
)


def headline_measure(measured: Collection[str]) -> str | None:
    """The id of the strongest evidence among these measure ids; None if none of them tells better from worse."""
    by_strength = [*HEADLINES, *(key for key in MEASURES if key not in HEADLINES)]
    return next((key for key in by_strength if key in measured and MEASURES[key].better != "same"), None)


def verdict(metrics: Sequence[Mapping[str, Any]], measured: pa.Table) -> str:
    """One sentence: whether the aligned generator is better by the headline measure, and whether beyond chance.

    Args:
        metrics: rows of tables.METRICS.
        measured: the table tables.MEASURES that these rows were computed from.
    """
    by_measure = {row["measure"]: row for row in metrics}
    key = headline_measure(by_measure)
    if key is None:
        return NOTHING_COMPARED
    row, measure = by_measure[key], MEASURES[key]
    if key == TRUTH:
        return _verdict_on_defects(row, measured)
    improved = (row["difference"] > 0) == (measure.better == "higher")
    outcome = "can't be told from" if _holds_zero(row) else f"is {'better' if improved else 'worse'} than"
    return (
        f"By {HEADLINES.get(key, measure.title)}, the aligned generator {outcome} the base: "
        f"{_with_unit(row['aligned'], measure)} instead of {_with_unit(row['base'], measure)}, "
        f"where {measure.better} is better ({_evidence(row)})."
    )


def sample_size(row: Mapping[str, Any]) -> str:
    """The numbers of prompts and clips behind a row of tables.METRICS, in words."""
    base, aligned = row["base_clips"], row["aligned_clips"]
    clips = f"{base} clips of each model" if base == aligned else f"{base} clips of the base and {aligned} aligned ones"
    return f"{row['prompts']} prompts, {clips}"


def _verdict_on_defects(row: Mapping[str, Any], measured: pa.Table) -> str:
    """The verdict by the true share of defective patches: by how many per cent it is lower or higher."""
    base, aligned = _by_prompt(measured, TRUTH)
    if not base.any():
        return f"The base generator made no defects, so there was nothing to mend ({sample_size(row)})."
    name, change = MEASURES[TRUTH].title, paired_ratio(base, aligned)
    if not change.mean:
        share = show_number(row["base"])
        return f"The aligned generator makes as many {name} as the base: {share}% ({sample_size(row)})."
    direction = "fewer" if change.mean > 0 else "more"
    return (
        f"The aligned generator makes {abs(change.mean):.0%} {direction} {name} than the base: "
        f"{show_number(row['aligned'])}% instead of {show_number(row['base'])}% ({_evidence(row)})."
    )


def _evidence(row: Mapping[str, Any]) -> str:
    """The difference with its interval and the sample size."""
    points = " points" if row["unit"] == "%" else ""
    conclusion = "not clear of zero" if _holds_zero(row) else "clear of zero"
    return (
        f"difference {show_number(row['difference'], signed=True)}{points}, "
        f"95% interval {show_interval(row['low'], row['high'])}, {conclusion}; {sample_size(row)}"
    )


def _holds_zero(row: Mapping[str, Any]) -> bool:
    return bool(row["low"] <= 0 <= row["high"])


def _with_unit(value: float, measure: Measure) -> str:
    space = "" if measure.unit in ("", "%") else " "
    return f"{show_number(value)}{space}{measure.unit}"


def _by_prompt(measured: pa.Table, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of a measure for each prompt that both models have: [prompts] of the base, [prompts] of the aligned."""
    rows = measured.group_by(["measure", "model", "prompt_id"]).aggregate([("value", "mean")]).to_pylist()
    means = {(row["model"], row["prompt_id"]): row["value_mean"] for row in rows if row["measure"] == key}
    prompts = sorted({prompt for _, prompt in means if ("base", prompt) in means and ("aligned", prompt) in means})
    base, aligned = (np.array([means[model, prompt] for prompt in prompts]) for model in ("base", "aligned"))
    return base, aligned
