"""What annotators get, what comes back, and how it is turned into tables."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sqlalchemy import update

from halovid.judges.table import TableJudge
from halovid.labelling import export, service
from halovid.labelling.database import Answer, Settings
from halovid.labelling.material import Material, load_material, patch_frames
from halovid.labelling.service import Labelling, Refused
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import Judgement, Request
from halovid.store.errors import InputError
from halovid.store.tables import CLIPS, read_table, rows_to_table, write_rows, write_table
from people_run import NUM_FRAMES, good_scores, make_run

GRID = PatchGrid(2, 2, 3)


@pytest.fixture
def labelling(open_labelling: Callable[..., Labelling], tmp_path: Path) -> Labelling:
    return open_labelling(f"sqlite:///{tmp_path}/labels.sqlite")


def answer(labelling: Labelling, annotator: int, mode: Any, state: Any = "done", **content: Any) -> dict[str, Any]:
    """Answers the next item and returns its task."""
    task = labelling.next(annotator, mode)["task"]
    labelling.save(annotator, task["item"], state, content, task["revision"], f"save-{time.monotonic_ns()}")
    return task


def clip_of(material: Material, task: dict[str, Any], index: int = 0) -> str:
    token = task["clips"][index]["url"].removeprefix("/clips/")
    return next(clip.clip_id for clip in material.clips.values() if clip.token == token)


def test_asking_again_gives_the_same_item_with_what_was_said(labelling: Labelling) -> None:
    annotator = labelling.join("Ann")["annotator"]
    task = answer(labelling, annotator, "rate", "open", scores={"text_alignment": 3})
    again = labelling.next(annotator, "rate")["task"]
    assert again["item"] == task["item"]
    assert (again["state"], again["revision"], again["content"]["scores"]) == ("open", 1, {"text_alignment": 3})
    assert labelling.join("Ann")["annotator"] == annotator


def test_annotators_see_no_origin(labelling: Labelling, material: Material) -> None:
    annotator = labelling.join("Ann")["annotator"]
    for mode in ("rate", "compare"):
        task = labelling.next(annotator, mode)["task"]
        shown = json.dumps({name: value for name, value in task.items() if name != "prompt"})
        assert not any(clip_id in shown for clip_id in material.clips)
        assert "p0" not in shown and "seed" not in shown


def test_base_and_aligned_are_compared_blindly(clips_run: Path) -> None:
    material = load_material(clips_run, "evaluate", 0)
    assert len(material.clips) == 12 and len(material.pairs) == 6
    assert all(pair.first.replace("base/", "aligned/") == pair.second for pair in material.pairs)
    tokens = json.dumps([clip.token for clip in material.clips.values()])
    assert "base" not in tokens and "aligned" not in tokens
    assert len({clip.token for clip in material.clips.values()}) == 12


def test_back_and_forth(labelling: Labelling) -> None:
    annotator = labelling.join("Ann")["annotator"]
    first = answer(labelling, annotator, "rate", scores=good_scores(2))
    second = answer(labelling, annotator, "rate", "skipped")
    at_hand = labelling.next(annotator, "rate")["task"]
    before = labelling.previous(annotator, "rate", at_hand["item"])["task"]
    assert (before["item"], before["state"]) == (second["item"], "skipped")
    earliest = labelling.previous(annotator, "rate", before["item"])["task"]
    assert (earliest["item"], earliest["content"]["scores"]) == (first["item"], good_scores(2))
    assert labelling.previous(annotator, "rate", earliest["item"])["task"] is None
    assert labelling.next(annotator, "rate")["task"]["item"] == at_hand["item"]


def test_progress_counts_what_is_left_for_each(labelling: Labelling) -> None:
    ann, bob = (labelling.join(name)["annotator"] for name in ("Ann", "Bob"))
    done = 0
    while labelling.next(ann, "rate")["task"]:
        answer(labelling, ann, "rate", scores=good_scores())
        done += 1
    assert done == 6  # nobody else has taken anything
    assert labelling.join("Ann")["progress"]["rate"] == service.Progress(6, 0, 0)
    assert labelling.join("Bob")["progress"]["rate"] == service.Progress(0, 0, 3)  # the common half
    answer(labelling, bob, "rate", "skipped")
    assert labelling.join("Bob")["progress"]["rate"] == service.Progress(0, 1, 2)


def test_what_was_skipped_or_left_long_ago_goes_to_somebody_else(
    open_labelling: Callable[..., Labelling], tmp_path: Path
) -> None:
    labelling = open_labelling(f"sqlite:///{tmp_path}/labels.sqlite", overlap=0)
    ann, bob = (labelling.join(name)["annotator"] for name in ("Ann", "Bob"))
    answer(labelling, ann, "rate", "skipped")
    labelling.next(ann, "rate")
    assert labelling.join("Bob")["progress"]["rate"].left == 5  # all but the open one
    with labelling._database.transaction() as session:
        session.execute(update(Answer).values(saved_at=time.time() - service.LEASE - 1))
    assert labelling.join("Bob")["progress"]["rate"].left == 6
    assert bob != ann


@pytest.mark.parametrize(
    ("state", "content", "words"),
    [
        ("done", {"scores": {"visual_quality": 3}}, "no rating of"),
        ("done", {}, "no rating of"),
        ("open", {"scores": {"visual_quality": 9}}, "less than or equal to 5"),
        ("open", {"marks": [{"aspect": "visual_quality", "patch": 12, "kind": "shape", "score": 2}]}, "outside"),
        ("open", {"scores": {"visual_quality": float("nan")}}, "scores"),
        ("open", {"preference": 1}, "preference"),
    ],
)
def test_content_that_does_not_fit_is_refused(labelling: Labelling, state: Any, content: Any, words: str) -> None:
    annotator = labelling.join("Ann")["annotator"]
    with pytest.raises(Refused, match=words):
        answer(labelling, annotator, "rate", state, **content)
    assert labelling.next(annotator, "rate")["task"]["revision"] == 0


def test_strangers_and_items_that_were_never_given_are_refused(labelling: Labelling, material: Material) -> None:
    ann, bob = (labelling.join(name)["annotator"] for name in ("Ann", "Bob"))
    item = labelling.next(ann, "rate")["task"]["item"]
    for annotator, name in ((bob, item), (ann, "0" * 20), (77, item)):
        with pytest.raises(Refused):
            labelling.save(annotator, name, "open", {}, 0, "save-0001")


def test_labels_come_out_as_those_of_a_judge(
    labelling: Labelling, material: Material, settings: Settings, tmp_path: Path
) -> None:
    ann, bob = (labelling.join(name)["annotator"] for name in ("Ann", "Bob"))
    mark = {"aspect": "visual_quality", "patch": 4, "kind": "shape", "score": 2}
    for annotator, score, marks in ((ann, 2, [mark]), (bob, 5, [])):
        while labelling.next(annotator, "rate")["task"]:
            answer(labelling, annotator, "rate", scores=good_scores(score), marks=marks)
    stored = labelling._database.finished()
    merged = export.EXPORTS["labels"](stored, settings)
    assert len(merged) == 6 * 5
    rows = {(row["clip_id"], row["aspect"]): row for row in merged.to_pylist()}
    labelled_twice = [clip_id for clip_id, count in _answers_per_clip(stored).items() if count == 2]
    assert len(labelled_twice) == 3
    for clip_id in material.clips:
        row = rows[clip_id, "visual_quality"]
        expected = np.full(12, 5.0)
        expected[4] = 3.5 if clip_id in labelled_twice else 2.0
        assert row["patch_scores"] == expected.tolist()
        assert row["score"] == (3.5 if clip_id in labelled_twice else 2.0)
        assert rows[clip_id, "temporal_consistency"]["patch_scores"] == [5.0] * 12
        assert rows[clip_id, "text_alignment"]["patch_scores"] is None
    for name in ("labels.parquet", "labels.jsonl"):
        write_rows(tmp_path / name, merged)
        judge = TableJudge(tmp_path / name, GRID)
        judgement = judge.judge([Request(torch.zeros(3, 1, 4, 4), "p", labelled_twice[0])], LatentGeometry(4, 8, True))[
            0
        ]
        assert isinstance(judgement, Judgement)
        assert judgement.clip["factual_consistency"] == 3.5
        assert judgement.patches["visual_quality"][0, 1, 1] == 3.5
    by_annotator = export.EXPORTS["annotators"](stored, settings)
    assert set(by_annotator.column("judge").to_pylist()) == {"Ann", "Bob"} and len(by_annotator) == (6 + 3) * 5
    voted = export.EXPORTS["votes"](stored, settings).to_pylist()
    assert sum(vote["kind"] == "shape" and vote["patch"] == 4 and vote["voter"] == "Ann" for vote in voted) == 6
    assert len(voted) == 9 * 5 + 6


def _answers_per_clip(stored: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, stored_answer in stored:
        counts[stored_answer.first] = counts.get(stored_answer.first, 0) + 1
    return counts


def test_preferences_speak_of_clips_and_not_of_sides(
    labelling: Labelling, material: Material, settings: Settings
) -> None:
    preferred: dict[str, str] = {}
    for name in ("Ann", "Bob"):
        annotator = labelling.join(name)["annotator"]
        while (task := labelling.next(annotator, "compare")["task"]) is not None:
            left, right = clip_of(material, task, 0), clip_of(material, task, 1)
            best = min(left, right)
            side = 1 if best == left else -1
            patches = [{"patch": 7, "preference": side}, {"patch": 0, "preference": -side}]
            shown = answer(labelling, annotator, "compare", preference=side, patches=patches)
            again = labelling.previous(annotator, "compare", None)["task"]
            assert again["content"] == {"preference": side, "patches": patches} and again["clips"] == shown["clips"]
            preferred[task["item"]] = best
    table = export.EXPORTS["preferences"](labelling._database.finished(), settings).to_pylist()
    assert len(table) == 9  # three common pairs twice, three once
    for row in table:
        sign = 1.0 if row["first"] < row["second"] else -1.0
        assert row["preference"] == sign
        assert (row["patch_preferences"][7], row["patch_preferences"][0]) == (sign, -sign)
        assert row["prompt_id"] == row["first"].split("-")[0]


def test_frames_show_the_patches_of_their_time(material: Material) -> None:
    clip = next(iter(material.clips.values()))
    assert (clip.facts.num_frames, clip.facts.fps) == (NUM_FRAMES, 8)
    shown = patch_frames(clip, PatchGrid(4, 1, 1))
    assert shown == {
        "frame_to_part": [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3],
        "parts": [[0, 0], [1, 4], [5, 8], [9, 12]],
    }
    assert patch_frames(clip, PatchGrid(1, 1, 1))["parts"] == [[0, 12]]
    finer = patch_frames(clip, PatchGrid(7, 1, 1))  # more parts than latent frames: each still has frames
    assert len(finer["parts"]) == 7 and all(first <= last for first, last in finer["parts"])


def test_clips_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    (run_dir / "generate/clips/p0-00.mp4").write_bytes(b"no video")
    (run_dir / "generate/clips/p0-01.mp4").unlink()
    path = run_dir / "generate/clips.parquet"
    rows = read_table(path, CLIPS).to_pylist()
    rows[2]["video"] = "../../secret.mp4"
    rows[3]["video"] = "/etc/passwd"
    write_table(path, rows_to_table(rows, CLIPS))
    material = load_material(run_dir, "generate", 0)
    assert sorted(material.clips) == ["p1-01", "p1-02"]
    assert sorted(material.unreadable) == ["p0-00", "p0-01", "p0-02", "p1-00"]
    assert "not in its folder" in material.unreadable["p1-00"]


def test_a_stage_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not complete"):
        load_material(make_run(tmp_path / "run"), "evaluate", 0)


def test_tables_are_written_as_their_name_says(tmp_path: Path) -> None:
    table = pa.table({"a": [1], "b": ["\N{FOX FACE}\n"]})
    write_rows(tmp_path / "t.parquet", table)
    write_rows(tmp_path / "t.jsonl", table)
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == table.to_pylist()
    assert [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()] == table.to_pylist()
    with pytest.raises(InputError, match=r"\.parquet or \.jsonl"):
        write_rows(tmp_path / "t.csv", table)
