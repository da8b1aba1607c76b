"""Agreement of people, judges and reward models, read from their tables."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from conftest import run_here
from halovid.maths import reliability, statistics
from halovid.measuring.rater_agreement import Comparison, agreement_table, show_agreement
from halovid.measuring.raters import OVERALL, Rater, Scores, mean_rater, read_raters
from halovid.store.errors import InputError
from halovid.store.tables import (
    CLIPS,
    LABELS,
    PREFERENCES,
    RELIABILITY,
    REWARDS,
    rows_to_table,
    write_rows,
    write_table,
)

PATCHES, CLIPS_PER_PROMPT = 6, 3
LOCAL, WHOLE = "visual_quality", "text_alignment"


class Panel:
    """Truth of some clips, and raters who see it through noise."""

    def __init__(self, seed: int = 0, prompts: int = 8) -> None:
        self.rng = np.random.default_rng(seed)
        self.clips = [f"p{prompt}-{index}" for prompt in range(prompts) for index in range(CLIPS_PER_PROMPT)]
        self.whole = self.rng.uniform(1, 5, len(self.clips))
        self.local = np.where(self.rng.random((len(self.clips), PATCHES)) < 0.3, 2.0, 5.0)

    def labels(self, noise: float, judge: str) -> list[dict[str, Any]]:
        rows = []
        for clip, whole, local in zip(self.clips, self.whole, self.local, strict=True):
            patches = np.clip(local + noise * self.rng.normal(size=PATCHES), 1, 5).tolist()
            score = float(np.clip(np.round(whole + noise * self.rng.normal()), 1, 5))
            rows.append({"clip_id": clip, "aspect": LOCAL, "score": score, "patch_scores": patches, "judge": judge})
            rows.append({"clip_id": clip, "aspect": WHOLE, "score": score, "patch_scores": None, "judge": judge})
        return rows

    def rewards(self) -> list[dict[str, Any]]:
        return [
            {"clip_id": clip, "prompt_id": clip[:2], "reward": 10 * whole, "patch_rewards": local.tolist()}
            for clip, whole, local in zip(self.clips, self.whole, self.local, strict=True)
        ]

    def preferences(self, judge: str) -> list[dict[str, Any]]:
        rows = []
        for first in range(0, len(self.clips), CLIPS_PER_PROMPT):
            margin = self.whole[first] - self.whole[first + 1]
            local = np.sign(self.local[first] - self.local[first + 1])
            rows.append(
                {"prompt_id": self.clips[first][:2], "first": self.clips[first], "second": self.clips[first + 1]}
                | {"preference": float(np.sign(margin)), "patch_preferences": local.tolist(), "judge": judge}
            )
        return rows


def table(path: Path, rows: list[dict[str, Any]], schema: Any = LABELS) -> Path:
    write_rows(path, rows_to_table(rows, schema))
    return path


def by_measure(rows: list[dict[str, Any]], **columns: str) -> dict[str, dict[str, Any]]:
    """Measure -> row, of the rows at a place."""
    return {row["measure"]: row for row in rows if columns.items() <= row.items()}


def test_a_judge_against_people(tmp_path: Path) -> None:
    panel = Panel()
    people = table(tmp_path / "people.parquet", panel.labels(0.0, "Ann"))
    judge = table(tmp_path / "judge.jsonl", panel.labels(0.8, "judge-1"))
    prompts = {clip: clip[:2] for clip in panel.clips}
    rows = agreement_table([people, judge], prompts, 200, 0).to_pylist()
    sides = ([json.loads(line) for line in judge.read_text().splitlines()], pq.read_table(people).to_pylist())
    judged, truth = ({row["clip_id"]: row for row in side if row["aspect"] == LOCAL} for side in sides)
    clips = sorted(truth)
    whole = [[side[clip]["score"] for clip in clips] for side in (judged, truth)]
    local = np.array([[side[clip]["patch_scores"] for clip in clips] for side in (judged, truth)])
    at_clips = by_measure(rows, scope="clip", aspect=LOCAL, rater="judge-1", reference="Ann")
    at_patches = by_measure(rows, scope="patch", aspect=LOCAL, rater="judge-1")
    assert at_clips["spearman"]["value"] == pytest.approx(stats.spearmanr(*whole).statistic, abs=1e-6)
    assert at_clips["kendall"]["value"] == pytest.approx(stats.kendalltau(*whole).statistic, abs=1e-6)
    assert at_clips["alpha interval"]["value"] == pytest.approx(reliability.krippendorff_alpha(whole), abs=1e-6)
    bad = local[1] < 4.2
    assert at_patches["auroc"]["value"] == pytest.approx(statistics.auroc(-local[0], bad), abs=1e-6)
    assert at_patches["pointing"]["value"] == pytest.approx(reliability.pointing_game(local[0], bad), abs=1e-6)
    assert at_patches["pointing by chance"]["value"] == pytest.approx(bad[bad.any(1)].mean(), abs=1e-6)
    pairs = [(a, b) for p in range(0, len(clips), 3) for a, b in ((p, p + 1), (p, p + 2), (p + 1, p + 2))]
    margins = [[side[a] - side[b] for a, b in pairs] for side in whole]
    assert at_clips["accuracy without ties"]["value"] == pytest.approx(reliability.preference_accuracy(*margins))
    assert at_clips["accuracy with ties"]["value"] == pytest.approx(reliability.tied_accuracy(*margins).accuracy)
    assert at_clips["accuracy with ties"]["count"] == len(pairs)
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"], row
    assert not by_measure(rows, scope="patch", aspect=WHOLE)
    assert by_measure(rows, scope="patch", aspect=OVERALL)["spearman"]["value"] == at_patches["spearman"]["value"]


def test_patches_that_a_side_has_not_rated_do_not_count(tmp_path: Path) -> None:
    panel = Panel()
    people = table(tmp_path / "people.parquet", panel.labels(0.0, "Ann"))
    partial = panel.labels(0.8, "judge-1")
    for row in partial[: len(partial) // 2]:
        if row["patch_scores"] is not None:
            row["patch_scores"][1] = None
    judge = table(tmp_path / "judge.parquet", partial)
    rows = by_measure(
        agreement_table([people, judge], {}, 50, 0).to_pylist(), scope="patch", aspect=LOCAL, rater="judge-1"
    )
    judged = np.array([row["patch_scores"] for row in partial if row["aspect"] == LOCAL], dtype=float)
    known = ~np.isnan(judged)
    assert rows["auroc"]["value"] == pytest.approx(statistics.auroc(-judged[known], panel.local[known] < 4.2), abs=1e-6)
    whole = known.all(1)
    assert 0 < whole.sum() < len(whole)
    pointing = reliability.pointing_game(judged[whole], panel.local[whole] < 4.2)
    assert rows["pointing"]["value"] == pytest.approx(pointing, abs=1e-6)
    assert rows["pointing"]["count"] == whole.sum()


def test_rewards_are_held_against_the_overall_rating(tmp_path: Path) -> None:
    panel = Panel()
    people = table(tmp_path / "people.parquet", panel.labels(0.0, "Ann"))
    model = table(tmp_path / "model.parquet", panel.rewards(), REWARDS)
    rows = agreement_table([people, model], {}, 50, 0).to_pylist()
    assert {row["aspect"] for row in rows} == {OVERALL}
    assert {row["rater"] for row in rows} == {"model"}
    at_patches = by_measure(rows, scope="patch")
    assert at_patches["auroc"]["value"] == at_patches["pointing"]["value"] == 1
    assert at_patches["spearman"]["value"] == pytest.approx(1)
    at_clips = by_measure(rows, scope="clip")
    assert at_clips["spearman"]["value"] > 0.9  # rounded ratings tie
    assert at_clips["accuracy without ties"]["count"] == 3 * 8  # rewards tell the prompts: pairs within each


def test_people_are_held_against_each_other_and_all_together(tmp_path: Path) -> None:
    panel = Panel()
    rows = [*panel.labels(0.2, "Ann"), *panel.labels(0.2, "Bob"), *panel.labels(3.0, "Cy")[: 2 * 12]]
    people = table(tmp_path / "people.parquet", rows)
    judge = table(tmp_path / "judge.parquet", panel.labels(0.2, "judge-1"))
    result = agreement_table([people, judge], {}, 0, 0).to_pylist()
    of_rater = {
        name: by_measure(result, scope="clip", aspect=LOCAL, rater=name) for name in ("Ann", "Bob", "Cy", "judge-1")
    }
    assert of_rater["Ann"]["spearman"]["reference"] == "the others"
    assert of_rater["judge-1"]["spearman"]["reference"] == "people"
    assert of_rater["Ann"]["spearman"]["value"] > of_rater["Cy"]["spearman"]["value"]
    assert of_rater["Cy"]["spearman"]["count"] == 12
    together = by_measure(result, scope="clip", aspect=LOCAL, rater="all", reference="each other")
    values = np.full((3, 24), math.nan)
    clips = sorted(panel.clips)
    for row in rows:
        if row["aspect"] == LOCAL:
            values[["Ann", "Bob", "Cy"].index(row["judge"]), clips.index(row["clip_id"])] = row["score"]
    for level in ("interval", "ordinal"):
        expected = reliability.krippendorff_alpha(values, level)  # type: ignore[arg-type]
        assert together[f"alpha {level}"]["value"] == pytest.approx(expected, abs=1e-6)
    assert all(math.isnan(row["low"]) for row in result)  # no resamples were wanted


def test_preferences_judge_scores_of_any_scale(tmp_path: Path) -> None:
    panel = Panel()
    people = table(tmp_path / "pairs.parquet", panel.preferences("Ann"), PREFERENCES)
    model = table(tmp_path / "model.parquet", panel.rewards(), REWARDS)
    rows = agreement_table([people, model], {}, 50, 0).to_pylist()
    at_pairs, at_patches = by_measure(rows, scope="pair"), by_measure(rows, scope="patch pair")
    assert at_pairs["accuracy without ties"]["value"] == 1 and at_pairs["accuracy without ties"]["count"] == 8
    assert at_patches["accuracy with ties"]["value"] == 1 and at_patches["accuracy with ties"]["count"] == 8 * PATCHES


def test_the_order_of_a_pair_does_not_matter(tmp_path: Path) -> None:
    panel = Panel()
    rows = panel.preferences("Ann")
    turned = [
        row | {"first": row["second"], "second": row["first"], "preference": -row["preference"]}
        | {"patch_preferences": [-value for value in row["patch_preferences"]], "judge": "Bob"}
        for row in rows
    ]  # fmt: skip
    with_both = table(tmp_path / "both.parquet", [*rows, *turned], PREFERENCES)
    result = agreement_table([with_both], {}, 0, 0).to_pylist()
    assert all(row["value"] == pytest.approx(1) for row in result)
    assert {row["rater"] for row in result} == {"Ann", "Bob", "all"}


def test_the_mean_of_raters_is_over_those_who_rated(tmp_path: Path) -> None:
    panel = Panel(prompts=1)
    rows = [*panel.labels(0.0, "Ann"), *panel.labels(1.0, "Bob")[:2]]
    ann, bob = read_raters(table(tmp_path / "t.parquet", rows), {})
    merged = mean_rater([ann, bob], "people").scores[LOCAL]
    first, second = panel.clips[:2]
    assert merged.clips[first] == (ann.scores[LOCAL].clips[first] + bob.scores[LOCAL].clips[first]) / 2
    assert merged.clips[second] == ann.scores[LOCAL].clips[second]
    assert np.array_equal(merged.patches[second], ann.scores[LOCAL].patches[second])


LABEL = {"clip_id": "a", "aspect": LOCAL, "score": 3.0, "patch_scores": [1.0, 2.0], "judge": "Ann"}
PREFERENCE = {"first": "a", "second": "b", "preference": 1.0}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "is empty: it holds no row"),
        ([{"clip": "a"}], "neither labels"),
        ([LABEL, LABEL], "twice in one aspect"),
        ([LABEL | {"score": None}], "missing or not a finite"),
        ([LABEL | {"score": "good"}], "score is 'good'; it must be a number"),
        ([LABEL, LABEL | {"clip_id": "b", "patch_scores": [1.0]}], "equally long"),
        ([PREFERENCE, PREFERENCE | {"first": "b", "second": "a"}], "two preferences"),
        ([PREFERENCE | {"first": None}], "without its first or second clip"),
        ([PREFERENCE | {"second": "a"}], "compares the clip 'a' with itself"),
        ([LABEL | {"score": True}], "score is True; it must be a number"),
        ([None], "is None; it must be a JSON object"),
    ],
)
def test_files_that_are_no_ratings_are_refused(rows: list[dict[str, Any]], words: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=words):
        read_raters(path, {})


def test_raters_with_nothing_in_common_are_refused(tmp_path: Path) -> None:
    panel = Panel()
    one = table(tmp_path / "one.parquet", panel.labels(0.0, "Ann"))
    other = [row | {"clip_id": f"x{row['clip_id']}"} for row in panel.labels(0.0, "judge-1")]
    finer = [row | {"patch_scores": row["patch_scores"] and [1.0, 2.0]} for row in panel.labels(0.0, "judge-2")]
    with pytest.raises(InputError, match="in common"):
        agreement_table([one, table(tmp_path / "two.parquet", other)], {}, 0, 0)
    with pytest.raises(InputError, match="one patch grid"):
        agreement_table([one, table(tmp_path / "three.parquet", finer)], {}, 0, 0)
    with pytest.raises(InputError, match="only one rater"):
        agreement_table([one], {}, 0, 0)


def labels_of(judge: str, scores: dict[str, dict[str, float]], patches: list[float | None] | None = None) -> list[Any]:
    """Label rows of clip -> aspect -> score; all with the same patches."""
    return [
        {"clip_id": clip, "aspect": aspect, "score": score, "patch_scores": patches, "judge": judge}
        for clip, by_aspect in scores.items()
        for aspect, score in by_aspect.items()
    ]


def test_equal_means_are_ties_however_they_are_rounded(tmp_path: Path) -> None:
    aspects = ("a", "b", "c", "d", "e")
    given = {"Ann": ((3, 3, 3, 4, 4), (4, 4, 4, 3, 3)), "Bob": ((4, 4, 4, 4, 3), (4, 4, 4, 3, 3))}
    rows = [  # x and y both have a mean of 3.6
        row
        for judge, (x, y) in given.items()
        for row in labels_of(
            judge, {c: dict(zip(aspects, s, strict=True)) for c, s in (("x", x), ("y", y), ("z", (1,) * 5))}
        )
    ]
    people = read_raters(table(tmp_path / "people.parquet", rows), {})
    overall = mean_rater(people, "people").scores[OVERALL].clips
    assert overall["x"] == overall["y"] == 3.6


def test_a_mean_at_the_threshold_is_sound_in_every_table(tmp_path: Path) -> None:
    merged = read_raters(table(tmp_path / "m.parquet", labels_of("people", {"x": {"a": 4.2}}, [4.2, 4.0])), {})
    single = [labels_of(f"p{k}", {"x": {"a": 4}}, [1.0 if k == 0 else 5.0, 4.0]) for k in range(5)]
    apart = mean_rater(
        read_raters(table(tmp_path / "s.parquet", [row for rows in single for row in rows]), {}), "people"
    )
    for rater in (merged[0], apart):
        assert (rater.scores["a"].patches["x"] < 4.2).tolist() == [False, True]


def test_a_rater_with_too_little_in_common_is_left_out_and_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    panel = Panel()
    casual = [row for row in panel.labels(0.4, "Cas") if row["clip_id"] == panel.clips[0]]
    people = table(tmp_path / "p.parquet", panel.labels(0.2, "Ann") + panel.labels(0.4, "Bob") + casual)
    rows = agreement_table([people], {}, 0, 0).to_pylist()
    assert {row["rater"] for row in rows} == {"Ann", "Bob", "all"}
    assert "'Cas' shares fewer than two clips" in capfd.readouterr().err.replace("\n", " ")


def test_raters_of_one_file_with_two_grids_are_refused(tmp_path: Path) -> None:
    rows = labels_of("Ann", {"x": {"a": 4}, "y": {"a": 3}}, [4.0] * 4) + labels_of("Bob", {"x": {"a": 4}}, [4.0] * 8)
    with pytest.raises(InputError, match=r"ratings of \[4, 8\] patches"):
        agreement_table([table(tmp_path / "p.parquet", rows)], {}, 0, 0)


def test_a_patch_that_one_rater_left_out_has_the_mean_of_the_others(tmp_path: Path) -> None:
    rows = labels_of("Ann", {"x": {"a": 4}}, [1.0, None, None]) + labels_of("Bob", {"x": {"a": 4}}, [3.0, 2.0, None])
    mean = mean_rater(read_raters(table(tmp_path / "p.parquet", rows), {}), "people").scores["a"].patches["x"]
    assert mean[:2].tolist() == [2.0, 2.0] and math.isnan(mean[2])


def test_a_clip_whose_prompt_nobody_tells_is_in_no_pair(tmp_path: Path) -> None:
    panel = Panel()
    files = [table(tmp_path / f"{name}.parquet", panel.labels(noise, name)) for name, noise in (("A", 0.0), ("B", 0.5))]
    prompts = {clip: clip[:2] for clip in panel.clips[1:]}
    pairs = by_measure(agreement_table(files, prompts, 0, 0).to_pylist(), scope="clip", aspect=LOCAL)
    assert pairs["accuracy with ties"]["count"] == 1 + 7 * 3


def test_the_command_prints_and_writes_the_table(tmp_path: Path) -> None:
    panel = Panel()
    people = table(tmp_path / "people.parquet", panel.labels(0.1, "[bold]Ann"))
    judge = table(tmp_path / "judge.parquet", panel.labels(0.8, "[bold]Ann"))
    clips = [
        dict.fromkeys(CLIPS.names)
        | {"clip_id": clip, "prompt_id": clip[:2], "prompt": "p", "seed": 0, "video": "v", "latents": "l", "fps": 8.0}
        for clip in panel.clips
    ]
    write_table(tmp_path / "clips.parquet", rows_to_table(clips, CLIPS))
    options = ("--clips", tmp_path / "clips.parquet", "--resamples", 20, "--out", tmp_path / "out.parquet")
    outcome = run_here("agreement", people, judge, *options)
    assert outcome.code == 0, outcome.stderr
    assert "clips: judge: [bold]Ann against people: [bold]Ann" in outcome.stdout
    assert "pointing by chance" in outcome.stdout and "accuracy with ties" in outcome.stdout
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert by_measure(rows, scope="clip", aspect=LOCAL)["accuracy with ties"]["count"] == 24
    missing = run_here("agreement", tmp_path / "none.parquet", judge)
    assert missing.code == 2 and "No such file" in missing.stderr


def test_a_measure_without_a_value_tells_why(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = {"a": "p", "b": "p", "c": "p"}
    comparison = Comparison(prompts, num_resamples=0, seed=0)
    flat, other = (
        {OVERALL: Scores(dict(zip("abc", values, strict=True)))} for values in ((3.0, 3.0, 3.0), (1.0, 2.0, 4.0))
    )
    assert comparison.against(Rater("other", other), Rater("flat", flat))
    show_agreement(rows_to_table(comparison.rows, RELIABILITY))
    shown = " ".join(capsys.readouterr().out.split())
    assert "nan" not in shown
    assert "spearman has no value: one side rates all alike" in shown
    assert "accuracy without ties has no value: the reference finds no clip of a pair better" in shown
