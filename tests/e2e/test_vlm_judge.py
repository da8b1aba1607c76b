"""The judge that asks models, through the command line: labels, votes, faults, later runs, the dry run, no key."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conftest import Kill, Outcome, Plan, manifest, run_here, snapshot, start_apart
from halovid.config.reward import RewardConfig
from halovid.judges.rounds import read_rounds, write_rounds
from halovid.records import HIGHEST
from halovid.store.tables import LABELS, VOTES, read_table
from vlm_fixtures import KEY
from vlm_server import Handler, Server, answer_well, completion, good_answer, send, status

pytestmark = pytest.mark.e2e
CLIPS, PATCHES, TIMES = 12, 8, 2
PER_CLIP = 1 + TIMES  # about the clip, about the four patches of each time

Judge = Callable[..., Outcome]


@pytest.fixture
def run_dir(finished_run: Callable[..., Path]) -> Path:
    return finished_run(before="judge")


@pytest.fixture
def command(server: Server, run_dir: Path, tiny_recipe: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The command line that runs the stage against the server; settings are those of judge.vlm."""

    def line(**settings: Any) -> list[str]:
        defaults = {
            "base_url": server.base_url,
            "answers": str(tmp_path / "answers"),
            "first_wait": 0.001,
            "frame_side": 64,
        }
        vlm = defaults | {"attempts": 2, "input_price": 2.5, "output_price": 10.0} | settings
        overrides = [text for name, value in vlm.items() for text in ("--set", f"judge.vlm.{name}={json.dumps(value)}")]
        return ["judge", str(tiny_recipe), str(run_dir), "--set", "judge.judge=openai", *overrides]

    return line


@pytest.fixture
def judge(command: Callable[..., list[str]]) -> Judge:
    """Runs the stage against the server."""
    return lambda *flags, **settings: run_here(*command(**settings), *flags)


def labels(run_dir: Path) -> list[dict[str, Any]]:
    return read_table(run_dir / "judge" / "labels.parquet", LABELS).to_pylist()


def votes(run_dir: Path) -> list[dict[str, Any]]:
    return read_table(run_dir / "judge" / "votes.parquet", VOTES).to_pylist()


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][1]["content"][0]["text"].split("\n")[1]


def test_every_clip_and_patch_is_labelled(judge: Judge, server: Server, run_dir: Path) -> None:
    outcome = judge()
    assert outcome.code == 0, outcome.stderr
    assert len(server.requests) == CLIPS * PER_CLIP
    rows = labels(run_dir)
    assert len(rows) == CLIPS * len(RewardConfig().aspects)
    for row in rows:
        patched = row["aspect"] in RewardConfig().patch_aspects
        assert row["score"] == 4
        assert row["patch_scores"] == ([4.0] * PATCHES if patched else None)
        assert row["judge"].startswith("openai-1(gpt-4o, patches, show=grid, rubric=")
    opinions = votes(run_dir)
    assert len(opinions) == CLIPS * (5 + 2 * PATCHES)
    assert {(vote["voter"], vote["kind"], vote["reason"]) for vote in opinions} == {("gpt-4o#0", "other", "as it is")}
    assert judge().stderr.strip() == "judge: complete, skipped"


def test_a_reward_model_learns_from_the_labels(judge: Judge, run_dir: Path, tiny_recipe: Path) -> None:
    assert judge().code == 0
    assert run_here("reward", tiny_recipe, run_dir).code == 0


def test_a_complete_stage_needs_no_key_and_no_server(
    judge: Judge, server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge().code == 0
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "complete" in judge().stderr
    shutil.rmtree(run_dir / "judge")
    outcome = judge()  # all answers are on disk
    assert outcome.code == 0, outcome.stderr
    assert len(labels(run_dir)) == CLIPS * 5
    assert len(server.requests) == CLIPS * PER_CLIP


def test_failed_clips_are_listed_and_a_later_run_asks_for_them_alone(
    judge: Judge, server: Server, run_dir: Path
) -> None:
    bad = pq.read_table(run_dir / "generate" / "clips.parquet").to_pylist()[0]["prompt"]

    def partly(handler: Handler, body: dict[str, Any]) -> None:
        (status(500) if prompt_of(body) == json.dumps(bad) else answer_well)(handler, body)

    server.always = partly
    outcome = judge()
    assert outcome.code == 0, outcome.stderr
    skipped = manifest(run_dir, "judge")["skipped"]
    assert [entry["item"] for entry in skipped] == ["p00000-00", "p00000-01", "p00000-02"]
    assert all(entry["again"] and "HTTP 500" in entry["reason"] for entry in skipped)
    assert "3 skipped" in outcome.stderr
    assert len(labels(run_dir)) == (CLIPS - 3) * 5
    before = len(server.requests)
    assert judge().code == 0  # still bad: tried again, and nothing else is
    assert len(server.requests) - before == 3 * 2
    server.always, before = None, len(server.requests)
    outcome = judge()
    assert "3 items that failed earlier are tried again" in outcome.stderr
    assert len(server.requests) - before == 3 * PER_CLIP
    assert manifest(run_dir, "judge")["skipped"] == []
    assert len(labels(run_dir)) == CLIPS * 5
    assert "complete" in judge().stderr


def test_a_server_that_is_down_leaves_nothing_complete(judge: Judge, server: Server, run_dir: Path) -> None:
    server.always = status(503)
    outcome = judge()
    assert outcome.code == 2
    assert f"judge: not one of {CLIPS} items could be done (HTTP 503: out of order (2 attempts))" in outcome.stderr
    assert not (run_dir / "judge" / "manifest.json").exists()
    server.always = None
    assert judge().code == 0
    assert len(labels(run_dir)) == CLIPS * 5


def test_a_spent_budget_stops_cleanly_and_a_raised_one_goes_on(judge: Judge, server: Server, run_dir: Path) -> None:
    outcome = judge(budget={"calls": 7}, concurrency=2)
    assert outcome.code == 2 and "judge.vlm.budget.calls is 7" in outcome.stderr, "not one clip is whole"
    assert len(server.requests) == 7
    outcome = judge(budget={"calls": 13}, concurrency=2)
    assert outcome.code == 0, outcome.stderr
    assert len(server.requests) == 20
    skipped = manifest(run_dir, "judge")["skipped"]
    assert len(skipped) + len(labels(run_dir)) // 5 == CLIPS
    assert all("judge.vlm.budget.calls is 13" in entry["reason"] for entry in skipped)
    outcome = judge(budget={"calls": CLIPS * PER_CLIP - 20})
    assert outcome.code == 0
    assert len(server.requests) == CLIPS * PER_CLIP
    assert len(labels(run_dir)) == CLIPS * 5


def test_nothing_that_was_answered_before_a_kill_is_asked_again(
    command: Callable[..., list[str]], server: Server, run_dir: Path, tmp_path: Path
) -> None:
    argv = command(concurrency=1, key_variable=None)
    process = start_apart(Plan(tuple(argv), tmp_path / "log", Kill("answers/*", "after")))
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert len(server.requests) == 1
    outcome = run_here(*argv)
    assert outcome.code == 0, outcome.stderr
    assert len(server.requests) == CLIPS * PER_CLIP
    assert len(labels(run_dir)) == CLIPS * 5


def test_a_label_budget_asks_what_is_wanted_and_pays_for_nothing_twice(
    judge: Judge, server: Server, run_dir: Path, tmp_path: Path
) -> None:
    assert judge("--set", "judge.share=0.25").code == 0
    first, rounds = len(server.requests), read_rounds(run_dir / "judge" / "questions.parquet")
    assert all(len(own) == 1 and len(own[0]) == PATCHES // 4 for own in rounds.values())
    known = {row["clip_id"]: row["patch_scores"] for row in labels(run_dir) if row["patch_scores"] is not None}
    for clip, scores in known.items():
        assert [place for place, score in enumerate(scores) if score is not None] == rounds[clip][0]
    assert len(votes(run_dir)) == CLIPS * (5 + 2 * PATCHES // 4)
    more = {clip: [own[0], [place for place in (0, 5) if place not in own[0]]] for clip, own in rounds.items()}
    write_rounds(tmp_path / "questions.parquet", more)
    assert judge("--set", f"judge.questions={tmp_path / 'questions.parquet'}").code == 0
    new = sum(len({place // (PATCHES // TIMES) for place in own[1]}) for own in more.values())
    assert len(server.requests) - first == new
    assert len(votes(run_dir)) == CLIPS * 5 + 2 * sum(len(place) for own in more.values() for place in own)


def test_a_refused_key_ends_the_command_and_is_not_shown(judge: Judge, server: Server, run_dir: Path) -> None:
    server.always = status(401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}))
    outcome = judge()
    assert outcome.code == 2
    assert "OPENAI_API_KEY" in outcome.stderr and "HTTP 401" in outcome.stderr
    assert KEY not in outcome.stderr + outcome.stdout
    assert not (run_dir / "judge" / "manifest.json").exists()
    server.always = None
    assert judge().code == 0


def test_a_missing_key_is_explained(judge: Judge, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    outcome = judge()
    assert outcome.code == 2
    assert outcome.stderr.strip().endswith("null for an endpoint without a key")
    assert not server.requests


def test_the_key_is_in_no_file_and_no_output(judge: Judge, server: Server, run_dir: Path, tmp_path: Path) -> None:
    def echo(handler: Handler, body: dict[str, Any]) -> None:
        if len(server.requests) % 5 == 0:
            error = {"message": f"no: {handler.headers['authorization']}"}
            status(400, json.dumps({"error": error}))(handler, body)
        else:
            answered = json.dumps(good_answer(body)).replace("as it is", handler.headers["authorization"])
            send(handler, completion(answered))

    server.always = echo
    outcome = judge()
    assert outcome.code == 0, outcome.stderr
    assert "Bearer [key]" in {vote["reason"] for vote in votes(run_dir)}
    assert "no: Bearer [key]" in json.dumps(manifest(run_dir, "judge"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("answers" in str(path) for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in outcome.stdout + outcome.stderr


def test_words_of_a_server_are_no_markup_of_the_terminal(judge: Judge, server: Server) -> None:
    server.always = status(400, '{"error": {"message": "[/red][bold]look[/nonsense]"}}')
    outcome = judge()
    assert outcome.code == 2, "not one clip is judged"
    assert "[/nonsense]" in outcome.stderr


def test_the_dry_run_tells_what_the_run_then_asks(judge: Judge, server: Server, run_dir: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    outcome = judge("--dry-run")
    assert outcome.code == 0, outcome.stderr
    assert snapshot(tmp_path) == before
    assert not server.requests
    plan = planned(outcome.stdout)
    assert (plan["calls"], plan["answered on disk"]) == (str(CLIPS * PER_CLIP), "0")
    sent = int(plan["text tokens"]) + int(plan["image tokens"])
    assert float(plan["cost"]) == pytest.approx(sent * 2.5e-6 + int(plan["output tokens"]) * 1e-5, abs=0.006)
    assert f"{CLIPS} clips" in outcome.stdout
    judge(budget={"calls": 10})
    assert len(server.requests) == 10
    plan = planned(judge("--dry-run", input_price=None).stdout)
    assert (plan["calls"], plan["answered on disk"]) == (str(CLIPS * PER_CLIP - 10), "10")
    assert plan["cost"] == "no price in the recipe"


def planned(text: str) -> dict[str, str]:
    """The table of a dry run: what is counted -> the only model's number."""
    rows = [
        [cell.strip() for cell in line.strip("\u2502 ").split("\u2502")]
        for line in text.splitlines()
        if "\u2502" in line
    ]
    return {name: value.replace(",", "") for name, value in rows}


def test_a_dry_run_of_another_judge_is_refused(tiny_recipe: Path, run_dir: Path) -> None:
    outcome = run_here("judge", tiny_recipe, run_dir, "--dry-run")
    assert outcome.code == 2
    assert "'simulated', which costs nothing" in outcome.stderr


def test_votes_of_a_panel_and_their_disagreement(judge: Judge, server: Server, run_dir: Path) -> None:
    def opinionated(handler: Handler, body: dict[str, Any]) -> None:
        score = 2 if body["model"] == "other" else 4
        send(handler, completion(json.dumps(good_answer(body, score))))

    server.always = opinionated
    panel = [{"model": "other", "base_url": server.base_url}]
    outcome = judge(panel=panel, votes=2, temperature=0.7)
    assert outcome.code == 0, outcome.stderr
    assert len(server.requests) == CLIPS * PER_CLIP * 3
    assert {round(row["score"], 4) for row in labels(run_dir)} == {round((4 + 4 + 2) / 3, 4)}
    opinions = [vote for vote in votes(run_dir) if vote["clip_id"] == "p00000-00" and vote["patch"] == 5]
    assert sorted((vote["aspect"], vote["voter"], vote["score"]) for vote in opinions) == [
        (aspect, voter, score)
        for aspect in ("temporal_consistency", "visual_quality")
        for voter, score in (("gpt-4o#0", 4.0), ("gpt-4o#1", 4.0), ("other#0", 2.0))
    ]


def test_from_coarse_to_fine_only_suspicious_times_are_looked_at(judge: Judge, server: Server, run_dir: Path) -> None:
    windows = {0: [], 1: [{"reason": "jump", "first_frame": 9, "last_frame": 10}]}

    def coarse(handler: Handler, body: dict[str, Any]) -> None:
        good = good_answer(body, 2)
        if "windows" in good:
            good["windows"] = windows[int(len(prompt_of(body)) % 2)]
        send(handler, completion(json.dumps(good)))

    server.always = coarse
    outcome = judge(strategy="coarse_to_fine")
    assert outcome.code == 0, outcome.stderr
    suspicious = [row for row in pq.read_table(run_dir / "generate" / "clips.parquet").to_pylist()]
    names = {row["clip_id"] for row in suspicious if len(json.dumps(row["prompt"])) % 2}
    assert len(server.requests) == CLIPS + len(names)
    for row in labels(run_dir):
        if row["patch_scores"] is not None:
            late = [2.0] * 4 if row["clip_id"] in names else [HIGHEST] * 4
            assert row["patch_scores"] == [HIGHEST] * 4 + late


def test_boxes_become_labels_of_the_patches_they_cover(judge: Judge, server: Server, run_dir: Path) -> None:
    place = {"left": 500, "right": 1000, "top": 0, "bottom": 500, "first_frame": 0, "last_frame": 4}
    defect = place | {"reason": "hand", "kind": "shape", "score": 1, "aspect": "visual_quality"}

    def boxes(handler: Handler, body: dict[str, Any]) -> None:
        good = good_answer(body)
        good["defects"] = [defect]
        send(handler, completion(json.dumps(good)))

    server.always = boxes
    outcome = judge(strategy="boxes")
    assert outcome.code == 0, outcome.stderr
    assert len(server.requests) == CLIPS
    scores = {row["aspect"]: row["patch_scores"] for row in labels(run_dir)}
    assert scores["visual_quality"] == [5.0, 1.0, *[5.0] * 6]
    assert scores["temporal_consistency"] == [5.0] * 8
    patch = [vote for vote in votes(run_dir) if vote["patch"] is not None and vote["clip_id"] == "p00000-00"]
    assert [(vote["patch"], vote["kind"], vote["reason"], vote["score"]) for vote in patch] == [
        (1, "shape", "hand", 1.0)
    ]
