"""The stage score with a reward model behind a server that fails: what is kept, tried again, final, and told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import with_hashes
from halovid.config.recipes import make_config
from halovid.stages import score
from halovid.store.errors import InputError
from halovid.store.files import write_json
from halovid.store.folders import open_stage
from halovid.store.manifests import read_manifest
from halovid.store.tables import CLIPS, REWARDS, read_table, rows_to_table
from halovid.store.video import write_video
from vlm_fixtures import KEY
from vlm_server import SCORES, Handler, Server, answer_well, completion, reply, send, status

PER_CLIP = 1 + 2  # the clip, and its two patches
NAMES = ("a", "b", "c")
ATTEMPTS = 2


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with three clips, each of a prompt of its own."""
    run = tmp_path / "run"
    generator = torch.Generator().manual_seed(0)
    with open_stage(run, "generate", {}) as stage:
        assert stage is not None
        rows = []
        for name in NAMES:
            row = {"clip_id": name, "prompt_id": name, "prompt": f"prompt {name}", "seed": 1, "latents": "", "fps": 8.0}
            write_video(stage.path / "clips" / f"{name}.mp4", torch.rand(3, 9, 16, 24, generator=generator) * 2 - 1, 8)
            rows.append(with_hashes(stage.path, row | {"video": f"clips/{name}.mp4"}))
        geometry = {"temporal_stride": 4, "spatial_stride": 8, "causal_first_frame": True}
        write_json(stage.path / "geometry.json", geometry)
        stage.write("clips.parquet", rows_to_table(rows, CLIPS))
    return run


@pytest.fixture
def run_score(server: Server, run_dir: Path, tmp_path: Path) -> Callable[..., None]:
    """Runs the stage against the server; settings are those of score.server."""

    def run(**settings: Any) -> None:
        model = {"family": "videoscore2", "model": "m", "base_url": server.base_url, "key_variable": "OPENAI_API_KEY"}
        calls = {"answers": str(tmp_path / "answers"), "first_wait": 0.001, "attempts": ATTEMPTS}
        recipe = {
            "device": "cpu",
            "threads": 1,
            "generator": {"num_frames": 9, "height": 16, "width": 24},
            "grid": {"t": 1, "h": 1, "w": 2},
            "score": {"server": model | calls | settings},
        }
        score.run(make_config(recipe), run_dir)

    return run


def scored(run_dir: Path) -> list[str]:
    return read_table(run_dir / "score" / "generate" / "rewards.parquet", REWARDS).column("clip_id").to_pylist()


def skipped(run_dir: Path) -> list[dict[str, Any]]:
    manifest = read_manifest(run_dir / "score")
    assert manifest is not None
    return manifest["skipped"]


def only_b(bad: Callable[[Handler, dict[str, Any]], None]) -> Callable[[Handler, dict[str, Any]], None]:
    """Behaves badly to questions about the clip b."""

    def behave(handler: Handler, body: dict[str, Any]) -> None:
        text = body["messages"][0]["content"][-1]["text"]
        (bad if "prompt b" in text else answer_well)(handler, body)

    return behave


def test_a_server_that_is_down_leaves_nothing_complete(
    run_score: Callable[..., None], server: Server, run_dir: Path
) -> None:
    server.always = status(503)
    for _ in range(2):
        with pytest.raises(InputError, match=r"score: not one of 3 items could be done \(HTTP 503: out of order"):
            run_score()
    assert read_manifest(run_dir / "score") is None
    server.always = None
    run_score()
    assert scored(run_dir) == list(NAMES) and skipped(run_dir) == []


def test_clips_of_an_outage_are_tried_again_and_nothing_is_asked_twice(
    run_score: Callable[..., None], server: Server, run_dir: Path
) -> None:
    server.always = only_b(status(502))
    run_score()
    assert scored(run_dir) == ["a", "c"]
    (entry,) = skipped(run_dir)
    assert entry["item"] == "b" and entry["again"] and "HTTP 502" in entry["reason"]
    server.always, before = None, len(server.requests)
    run_score()
    assert len(server.requests) - before == PER_CLIP
    assert scored(run_dir) == list(NAMES) and skipped(run_dir) == []
    run_score()
    assert len(server.requests) - before == PER_CLIP


def test_answers_without_scores_are_final(run_score: Callable[..., None], server: Server, run_dir: Path) -> None:
    server.always = only_b(reply(completion("I can't say.")))
    run_score()
    assert scored(run_dir) == ["a", "c"]
    (entry,) = skipped(run_dir)
    assert entry["item"] == "b" and "again" not in entry and 'it ends: "I can\'t say."' in entry["reason"]
    assert len(server.requests) == 2 * PER_CLIP + ATTEMPTS
    run_score()
    assert len(server.requests) == 2 * PER_CLIP + ATTEMPTS


def test_other_patience_is_the_same_result_and_another_question_is_not(
    run_score: Callable[..., None], server: Server, tmp_path: Path
) -> None:
    question = tmp_path / "question.txt"
    question.write_text("How is {prompt}?")
    run_score(question=str(question))
    run_score(question=str(question), timeout=9.0, attempts=5, answers=str(tmp_path / "elsewhere"), key_variable=None)
    assert len(server.requests) == len(NAMES) * PER_CLIP
    question.write_text("How good is {prompt}?")
    run_score(question=str(question))
    assert len(server.requests) == 2 * len(NAMES) * PER_CLIP


def test_a_key_that_the_server_repeats_is_in_no_file_and_not_shown(
    run_score: Callable[..., None], server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def repeat(handler: Handler, body: dict[str, Any]) -> None:
        send(handler, completion(f"{handler.headers['authorization']} {SCORES}"))

    def refuse(handler: Handler, body: dict[str, Any]) -> None:
        status(500, f'{{"error": {{"message": "no: {handler.headers["authorization"]}"}}}}')(handler, body)

    server.always = lambda handler, body: (refuse if "prompt b" in str(body["messages"]) else repeat)(handler, body)
    run_score()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    shown = "".join(capfd.readouterr())
    assert "no: Bearer [key]" in shown and KEY not in shown


@pytest.mark.parametrize("variable", ["AIza" + "no0Key" * 6, "AKIAIOSFODNN7EXAMPLE", "sk-123", "a key"])
@pytest.mark.parametrize("section", ["judge.vlm", "score.server"])
def test_a_key_in_place_of_the_name_of_its_variable_is_refused_and_not_repeated(variable: str, section: str) -> None:
    first, second = section.split(".")
    model = {"family": "videoscore2", "model": "m", "base_url": "http://host/v1"} if second == "server" else {}
    with pytest.raises(InputError, match="key_variable must be the name of an environment variable") as caught:
        make_config({first: {second: model | {"key_variable": variable}}})
    assert variable not in str(caught.value)
