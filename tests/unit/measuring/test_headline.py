"""The sentence that a report, a summary and a study lead with."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from halovid.measuring.evaluation import compare
from halovid.measuring.headline import HEADLINES, NOTHING_COMPARED, headline_measure, verdict
from halovid.measuring.instruments import MEASURES
from halovid.store.tables import MEASURES as MEASURES_TABLE
from halovid.store.tables import rows_to_table

Values = dict[str, tuple[list[float], list[float]]]


def measured(values: Values, samples: int = 2) -> pa.Table:
    """Measure -> values by prompt of base and aligned, as an evaluation writes them."""
    rows: list[dict[str, Any]] = [
        {"model": model, "prompt_id": f"p{prompt}", "seed": sample, "measure": key, "value": value}
        for key, sides in values.items()
        for model, side in zip(("base", "aligned"), sides, strict=True)
        for prompt, value in enumerate(side)
        for sample in range(samples)
    ]
    return rows_to_table(rows, MEASURES_TABLE)


def sentence(values: Values) -> str:
    table = measured(values)
    return verdict(compare(table, num_resamples=200, seed=0), table)


def test_the_strongest_measure_leads() -> None:
    order = list(HEADLINES)
    for first, key in enumerate(order):
        assert headline_measure(order[first:]) == key
    assert headline_measure(["diversity", "temporal_flickering"]) == "temporal_flickering"
    assert headline_measure(["diversity", "motion"]) is None, "what should stay the same says nothing of quality"
    assert HEADLINES.keys() <= MEASURES.keys()


def test_the_truth_is_told_in_fewer_defects() -> None:
    said = sentence(
        {"defective_sprite_patches": ([34.0, 34.2, 34.1], [6.9, 7.0, 6.95]), "judge_rating": ([1, 2], [3, 3])}
    )
    assert said.startswith(
        "The aligned generator makes 80% fewer defective sprite patches than the base: 6.95% instead of 34.1%"
    )
    assert (
        "difference -27.1 points, 95% interval -27.2 to -27.1, clear of zero; 3 prompts, 6 clips of each model" in said
    )


@pytest.mark.parametrize(
    ("key", "base", "aligned", "outcome"),
    [
        ("critic_defect_probability", [20.0, 22.0, 21.0], [10.0, 12.0, 11.5], "is better than"),
        ("judge_rating", [3.0, 3.1, 2.9], [4.0, 4.2, 4.1], "is better than"),
        ("reward_clip", [3.0, 3.1, 2.9], [2.0, 2.2, 2.1], "is worse than"),
        ("flow_warp_error", [1e-5, 3e-5, 2e-5], [3e-5, 1e-5, 2e-5], "can't be told from"),
    ],
)
def test_a_run_without_the_truth_has_a_verdict_too(
    key: str, base: list[float], aligned: list[float], outcome: str
) -> None:
    said = sentence({key: (base, aligned), "diversity": (base, aligned)})
    assert said.startswith(f"By {HEADLINES[key]}, the aligned generator {outcome} the base: ")
    assert "95% interval" in said and "3 prompts, 6 clips of each model" in said and "0.0000" not in said


def test_nothing_to_mend_and_nothing_compared_are_said() -> None:
    assert "nothing to mend" in sentence({"defective_sprite_patches": ([0, 0], [0, 0])})
    assert "as many defective sprite patches as the base: 5.00%" in sentence(
        {"defective_sprite_patches": ([5, 5], [5, 5])}
    )
    assert sentence({"diversity": ([1, 2], [1, 2])}) == NOTHING_COMPARED
    assert sentence({"judge_rating": ([3], [4])}) == NOTHING_COMPARED  # one prompt has no interval


def test_unequal_numbers_of_clips_are_told() -> None:
    table = pa.concat_tables([measured({"judge_rating": ([3, 3], [4, 4])}), measured({"judge_rating": ([3, 3], [])})])
    assert "2 prompts, 8 clips of the base and 4 aligned ones" in verdict(compare(table, 200, 0), table)
