"""Imported clips go through the later stages, and folders are scored without a run; as people call it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from conftest import Kill, Plan, manifest, run_here, snapshot, start_apart
from halovid.cli.main import FORMAT_NAMES
from halovid.clips.folder import ClipFolder
from halovid.formats import FORMATS
from halovid.rewards.network import load_reward
from halovid.store.manifests import is_imported
from halovid.store.tables import CLIPS, LABELS, PAIRS, read_table
from halovid.store.video import read_video, write_video
from halovid.world.captions import write_caption
from halovid.world.scenes import sample_spec

pytestmark = pytest.mark.e2e
SHAPES = [(9, 96, 128, 8.0), (30, 64, 64, 24.0), (13, 272, 256, 10.0), (40, 256, 256, 25.0)]
RATINGS = {"visual quality": 3, "temporal consistency": 2, "dynamic degree": 4, "text-to-video alignment": 1}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of all lengths, sizes and rates: 4 prompts, 3 clips of each, a table of prompts, pairs and ratings."""
    source = tmp_path_factory.mktemp("source")
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    lines, ratings, metadata = ["video,prompt"], [], []
    for number in range(12):
        frames, height, width, fps = SHAPES[number % 4]
        if number % 3 == 0:
            prompt = write_caption(sample_spec(rng, "train"), rng)
        video = torch.rand((3, frames, height // 8, width // 8), generator=generator) * 2 - 1
        video = torch.nn.functional.interpolate(video, (height, width))
        write_video(source / f"clip{number}.mp4", video, fps)
        lines.append(f'clip{number}.mp4,"{prompt}"')
        scores = {name: 1 + (score + number) % 4 for name, score in RATINGS.items()} | {"factual consistency": 4}
        ratings.append({"id": f"clip{number}", "text prompt": prompt} | scores)
        basic = {"clip_path": f"clip{number}.mp4", "clip_duration": frames / fps}
        metadata.append({"basic": basic, "misc": {"frame_caption": [prompt]}})
    (source / "prompts.csv").write_text("\n".join(lines) + "\n")
    (source / "ratings.json").write_text(json.dumps(ratings))
    (source / "metadata.json").write_text(json.dumps(metadata))
    numbers = range(0, 12, 3)
    (source / "pair.json").write_text(
        json.dumps([{"video1": n, "video2": n + 1, "frame_caption": ""} for n in numbers])
    )
    return source


@pytest.fixture
def recipe(tiny_recipe: Path, tmp_path: Path) -> Callable[..., Path]:
    """The tiny recipe, changed."""

    def change(**sections: dict) -> Path:
        config = yaml.safe_load(tiny_recipe.read_text())
        for name, values in sections.items():
            config[name] = config.get(name, {}) | values
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return change


def test_the_command_names_all_formats() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES


def test_clips_of_a_folder_go_through_every_later_stage(
    clips: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    sources = ["candidates", "twins"]
    run, settings = tmp_path / "run", recipe(restore={"source": "candidates"}, pair={"sources": sources})
    outcome = run_here("import", "folder", clips, run, "--recipe", settings)
    assert outcome.code == 0, outcome.stderr
    assert "12 clips of 4 prompts" in outcome.stderr
    rows = read_table(run / "generate/clips.parquet", CLIPS).to_pylist()
    assert [row["fps"] for row in rows[:4]] == [8, 24, 10, 25]
    assert all(row["seed"] is None and row["latents"] is None for row in rows)
    assert (run / "generate/clips/clip1.mp4").read_bytes() == (clips / "clip1.mp4").read_bytes()
    for stage in ("judge", "reward", "good", "restore", "score", "pair", "align"):
        outcome = run_here(stage, settings, run)
        assert outcome.code == 0, outcome.stderr
        assert not manifest(run, stage)["skipped"] or stage == "pair"
    rejected = read_table(run / "pair/pairs.parquet", PAIRS)["rejected"].to_pylist()
    twins = [name for name in rejected if name.startswith("restored-")]
    assert len(twins) > 0 and len(rejected) - len(twins) == 4
    assert (run / "align/weights").exists()
    before = snapshot(run / "generate")
    outcome = run_here("run", settings, run)
    assert outcome.code == 0, outcome.stderr
    assert "imported, kept: generate" in outcome.stderr
    assert snapshot(run / "generate") == before
    assert (run / "report/report.html").exists()


def test_ratings_train_the_reward_model_without_any_of_patches(
    clips: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert run_here("import", "videofeedback", clips / "ratings.json", run, "--recipe", recipe()).code == 0
    labels = read_table(run / "judge/labels.parquet", LABELS).to_pylist()
    assert len(labels) == 60 and all(label["patch_scores"] is None for label in labels)
    outcome = run_here("reward", recipe(), run)
    assert outcome.code == 2 and "set it to 0" in outcome.stderr
    assert run_here("reward", recipe(reward={"patch_steps": 0}), run).code == 0
    for stage in ("good", "repair"):
        assert run_here(stage, recipe(reward={"patch_steps": 0}), run).code == 0
    outcome = run_here("score", recipe(reward={"patch_steps": 0}), run)
    assert outcome.code == 0, outcome.stderr
    network = load_reward(run / "reward")  # the patch head is the video head's rows
    assert torch.equal(network.patch_head.weight, network.video_head.weight[:2])
    outcome = run_here("run", recipe(reward={"patch_steps": 0}), run)
    assert "imported, kept: generate, judge" in outcome.stderr


def test_preferences_align_the_generator_by_clips_alone(
    clips: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert run_here("import", "videodpo", clips, run, "--recipe", recipe()).code == 0
    pairs = read_table(run / "pair/pairs.parquet", PAIRS).to_pylist()
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [
        (f"clip{n}", f"clip{n + 1}") for n in (0, 3, 6, 9)
    ]
    plain = recipe(pair={"sources": ["candidates"]}, align={"sample_prompts": 0})  # no other clips, no reward model
    outcome = run_here("align", plain, run)
    assert outcome.code == 0, outcome.stderr
    log = [json.loads(line) for line in (run / "align/log.jsonl").read_text().splitlines()]
    assert all(torch.isfinite(torch.tensor(line["loss/total"])) for line in log)
    assert not list((run / "align").rglob("latents"))  # they were made for the training alone


def test_an_import_without_a_recipe_says_what_later_stages_need(
    clips: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert run_here("import", "folder", clips, run).code == 0
    assert run_here("judge", recipe(), run).code == 0
    outcome = run_here("reward", recipe(), run)
    assert outcome.code == 2
    assert "import them again with --recipe" in outcome.stderr
    assert run_here("import", "folder", clips, run, "--recipe", recipe()).code == 0
    assert run_here("judge", recipe(), run).code == 0
    assert run_here("reward", recipe(), run).code == 0
    outcome = run_here("import", "folder", clips, run, "--recipe", recipe())
    assert "generate: complete, skipped" in outcome.stderr


def test_ratings_of_an_earlier_import_are_not_kept_for_other_clips(
    clips: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert run_here("import", "videofeedback", clips / "ratings.json", run, "--recipe", recipe()).code == 0
    assert is_imported(run, "generate") and is_imported(run, "judge") and not is_imported(run, "pair")
    assert run_here("import", "folder", clips, run, "--recipe", recipe()).code == 0
    assert is_imported(run, "generate") and not is_imported(run, "judge")


def test_an_import_that_was_killed_continues_to_the_same_result(clips: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_here("import", "videodpo", clips, whole).code == 0
    for number, pattern in enumerate(
        ("clips/clip5.mp4", "parts/import-000008-*.parquet", "generate/manifest.json", "pairs.parquet")
    ):
        process = start_apart(Plan(("import", "videodpo", str(clips), str(cut)), tmp_path / "log", Kill(pattern)))
        process.join(120)
        assert process.exitcode == -9, number
    outcome = run_here("import", "videodpo", clips, cut)
    assert outcome.code == 0, outcome.stderr
    for stage in ("generate", "pair"):
        assert manifest(cut, stage) == manifest(whole, stage)


def test_an_export_that_was_killed_leaves_nothing_beside_the_next(clips: Path, tmp_path: Path) -> None:
    assert run_here("import", "folder", clips, tmp_path / "run").code == 0
    (tmp_path / ".export.notes").mkdir()  # somebody else's
    command = ("export", "folder", str(tmp_path / "run"), str(tmp_path / "out"))
    for pattern in ("clip5.mp4", "out"):
        process = start_apart(Plan(command, tmp_path / "log", Kill(pattern)))
        process.join(120)
        assert process.exitcode == -9
        assert {path.name for path in tmp_path.glob(".*")} == {".export.notes", ".out.unfinished"}
    outcome = run_here(*command)
    assert outcome.code == 0, outcome.stderr
    assert "12 clips of" in outcome.stderr
    assert len(list((tmp_path / "out").iterdir())) == 13
    assert {path.name for path in tmp_path.glob(".*")} == {".export.notes"}


def test_scoring_that_was_killed_leaves_no_hidden_clip_among_the_heat_maps(
    clips: Path, first_run: tuple[Path, object], tmp_path: Path
) -> None:
    maps = tmp_path / "maps"
    command = ["score", "--clips", clips, "--reward", first_run[0], "--output", tmp_path / "a.csv", "--heatmaps", maps]
    for pattern in ("clip3.mp4", "clip4.mp4"):
        process = start_apart(Plan(tuple(map(str, command)), tmp_path / "log", Kill(pattern)))
        process.join(120)
        assert process.exitcode == -9
    assert list(maps.glob(".*"))
    outcome = run_here(*command)
    assert outcome.code == 0, outcome.stderr
    assert {path.name for path in maps.iterdir()} == {f"clip{number}.mp4" for number in range(12)}


def test_clips_are_shown_from_first_to_last_frame_in_the_size_asked_for(clips: Path, tmp_path: Path) -> None:
    assert run_here("import", "folder", clips, tmp_path / "run").code == 0
    folder = ClipFolder(tmp_path / "run/generate", (5, 64, 32))
    by_id = {row["clip_id"]: row for row in folder.rows}
    whole = read_video(clips / "clip3.mp4", (64, 32))
    assert torch.equal(folder.video(by_id["clip3"]), whole[:, [0, 10, 20, 29, 39]])
    short = ClipFolder(tmp_path / "run/generate", (17, 64, 32)).video(by_id["clip0"])  # 9 frames shown as 17
    assert short.shape == (3, 17, 64, 32)
    assert torch.equal(short[:, [0, -1]], read_video(clips / "clip0.mp4", (64, 32))[:, [0, -1]])


def test_a_folder_is_scored_without_a_run(
    clips: Path, first_run: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips/clip2.mp4").write_bytes(b"no video")
    run = first_run[0]
    outcome = run_here("score", "--clips", "clips", "--reward", run, "--output", "a.parquet", "--heatmaps", "maps")
    assert outcome.code == 0, outcome.stderr
    assert "left out: clip2.mp4" in outcome.stderr
    rows = {row["clip"]: row for row in pq.read_table("a.parquet").to_pylist()}
    assert len(rows) == 11
    network = load_reward(run / "reward")
    row = rows["clip0.mp4"]
    assert row["reward"] == pytest.approx(sum(row[aspect] for aspect in network.spec.aspects) / 5, abs=1e-5)
    assert len(row["patch_rewards"]) == 8
    for row in pq.read_table(tmp_path / "a.parquet").to_pylist():
        assert (tmp_path / "maps" / row["heatmap"]).is_file()
    heat = read_video(tmp_path / "maps/clip0.mp4")
    assert heat[0].mean() > heat[1].mean()  # reddish: the tiny model rates below the best
    outcome = run_here("score", "--clips", "clips", "--reward", run / "reward", "--output", "a.csv")
    assert outcome.code == 0, outcome.stderr
    with (tmp_path / "a.csv").open(newline="") as file:
        for own in csv.DictReader(file):
            assert float(own["reward"]) == pytest.approx(rows[own["clip"]]["reward"], abs=1e-5)


def test_scores_of_a_folder_are_those_of_the_stage(first_run: tuple[Path, object], tmp_path: Path) -> None:
    run = first_run[0]
    rows = read_table(run / "generate/clips.parquet", CLIPS).to_pylist()
    lines = ["video,prompt", *(f'{row["clip_id"]}.mp4,"{row["prompt"]}"' for row in rows)]
    shutil.copytree(run / "generate/clips", tmp_path / "clips")
    (tmp_path / "clips/prompts.csv").write_text("\n".join(lines))
    outcome = run_here("score", "--clips", tmp_path / "clips", "--reward", run, "--output", tmp_path / "a.parquet")
    assert outcome.code == 0, outcome.stderr
    stage = {row["clip_id"]: row for row in pq.read_table(run / "score/generate/rewards.parquet").to_pylist()}
    for row in pq.read_table(tmp_path / "a.parquet").to_pylist():
        expected = stage[row["clip"].removesuffix(".mp4")]
        assert row["reward"] == pytest.approx(expected["reward"], abs=1e-4)
        assert row["patch_rewards"] == pytest.approx(expected["patch_rewards"], abs=1e-4)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["score"], "name a RECIPE and a RUN"),
        (["score", "--clips", "{clips}"], "needs --reward MODEL"),
        (["score", "--clips", "{clips}", "--reward", "{clips}"], "holds no readable reward model"),
        (["score", "--clips", "{clips}", "--reward", "{run}", "--output", "x.xlsx"], "must be a .csv or .parquet"),
        (["score", "--clips", "{clips}", "--reward", "{run}", "--output", "{clips}/prompts.csv"], "would replace"),
        (
            ["score", "--clips", "{clips}", "--reward", "{run}", "--output", "{run}/report/report.html/x.csv"],
            "can't write",
        ),
        (["score", "--clips", "{clips}", "--reward", "{run}", "--heatmaps", "{clips}"], "would replace the clips"),
        (["score", "--clips", "{clips}/none", "--reward", "{run}"], "is no folder"),
        (["score", "--clips", "{clips}", "--reward", "{alone}"], "by --recipe"),
        (["score", "--clips", "{clips}", "--reward", "{alone}", "--set", "seed=1"], "name one with --recipe"),
        (["import", "coco", "{clips}", "{new}"], "unknown format 'coco'"),
        (["export", "folder", "{new}", "{clips}"], "is there already"),
        (["export", "folder", "{new}", "{new}2"], "does not exist"),
    ],
)
def test_mistakes_are_one_sentence(
    clips: Path, first_run: tuple[Path, object], tmp_path: Path, argv: list[str], reason: str
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(first_run[0] / "reward", alone)
    os.remove(alone / "manifest.json")
    places = {"clips": clips, "run": first_run[0], "new": tmp_path / "new", "alone": alone}
    outcome = run_here(*(part.format(**places) for part in argv))
    assert outcome.code == 2
    assert reason in outcome.stderr and len(outcome.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_model_that_left_its_run_needs_the_recipe(
    clips: Path, first_run: tuple[Path, object], tiny_recipe: Path, tmp_path: Path
) -> None:
    shutil.copytree(first_run[0] / "reward", tmp_path / "alone")
    arguments = ("score", "--clips", clips, "--reward", tmp_path / "alone", "--output", tmp_path / "a.csv")
    outcome = run_here(*arguments, "--recipe", tiny_recipe)
    assert outcome.code == 0, outcome.stderr
    outcome = run_here(*arguments, "--recipe", tiny_recipe, "--set", "generator.model=world")
    assert outcome.code == 2 and "16 wide" in outcome.stderr


def test_a_generated_run_is_exported_and_comes_back(finished_run: Callable[..., Path], tmp_path: Path) -> None:
    run = finished_run("align")
    for name in FORMATS:
        outcome = run_here("export", name, run, tmp_path / name)
        assert outcome.code == 0, outcome.stderr
        outcome = run_here("import", name, tmp_path / name, tmp_path / f"{name}-run")
        assert outcome.code == 0, outcome.stderr
    pairs = [
        (p["chosen"], p["rejected"], p["clip_margin"])
        for p in read_table(run / "pair/pairs.parquet", PAIRS).to_pylist()
    ]
    for name in ("rewardbench", "genaibench"):
        again = read_table(tmp_path / f"{name}-run/pair/pairs.parquet", PAIRS).to_pylist()
        assert [(p["chosen"], p["rejected"], p["clip_margin"]) for p in again] == pairs
    labels = {
        (r["clip_id"], r["aspect"]): r["score"] for r in read_table(run / "judge/labels.parquet", LABELS).to_pylist()
    }
    again = read_table(tmp_path / "videofeedback-run/judge/labels.parquet", LABELS).to_pylist()
    assert {(r["clip_id"], r["aspect"]): r["score"] for r in again} == pytest.approx(labels, abs=1e-5)
