"""A whole run through the real command line: what it leaves, that it repeats, and that the weights are of use."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file

from conftest import LORA, RECIPE, SECRETS, Kill, Outcome, Plan, manifest, results, run_here, snapshot, start_apart
from halovid.config.run import GeneratorConfig
from halovid.maths.video_metrics import dynamic_degree
from halovid.stages import STAGES
from halovid.store import tables
from halovid.store.video import read_video
from halovid.world_training.vae import LAYOUT

pytestmark = pytest.mark.e2e

TABLES = {
    "generate/clips.parquet": (tables.CLIPS, 12),
    "judge/labels.parquet": (tables.LABELS, 12 * 5),
    "reward/agreement.parquet": (tables.AGREEMENT, 5 + 2 + 1),
    "score/generate/rewards.parquet": (tables.REWARDS, 12),
    "score/good/rewards.parquet": (tables.REWARDS, 4),
    "score/repair/rewards.parquet": (tables.REWARDS, 4),
    "score/generate/ratings.parquet": (tables.LABELS, None),
    "good/clips.parquet": (tables.CLIPS, 4),
    "repair/clips.parquet": (tables.CLIPS, 4),
    "repair/repairs.parquet": (tables.REPAIRS, 4 * (1 + 2)),
    "restore/clips.parquet": (tables.CLIPS, 8),
    "restore/pairs.parquet": (tables.PAIRS, 8),
    "pair/pairs.parquet": (tables.PAIRS, None),
    "baseline/clips.parquet": (tables.CLIPS, 6),
    "baseline/measures.parquet": (tables.MEASURES, None),
    "evaluate/clips.parquet": (tables.CLIPS, 6),
    "examine/agreement.parquet": (tables.AGREEMENT, 2 * (5 + 2 + 1)),
    "evaluate/measures.parquet": (tables.MEASURES, None),
    "evaluate/metrics.parquet": (tables.METRICS, None),
}
INPUTS = {
    "generate": set(),
    "judge": {"generate"},
    "reward": {"generate", "judge"},
    "good": {"generate"},
    "repair": {"generate", "reward"},
    "score": {"generate", "good", "repair", "reward"},
    "restore": {"generate", "good"},
    "pair": {"score", "repair", "restore"},
    "align": {"generate", "good", "repair", "restore", "reward", "pair"},
    "baseline": set(),
    "examine": {"baseline", "reward"},
    "evaluate": {"baseline", "align"},
    "report": {"evaluate", "examine", "generate", "repair", "reward"},
}


@pytest.fixture(scope="module")
def run_dir(first_run: tuple[Path, Outcome]) -> Path:
    """The folder of the finished run."""
    return first_run[0]


@pytest.fixture(scope="module")
def other_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recipe in another folder and another process."""
    folder = tmp_path_factory.mktemp("other") / "run"
    outcome = run_here("run", tiny_recipe, folder)
    assert outcome.code == 0, outcome.stderr
    return folder


def rows(run_dir: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a table."""
    return pq.read_table(run_dir / name).to_pylist()


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_documented_schema(run_dir: Path, name: str) -> None:
    schema, count = TABLES[name]
    table = pq.read_table(run_dir / name)
    assert table.schema.metadata == schema.metadata
    assert table.column_names == schema.names
    for found, wanted in zip(table.schema.types, schema.types, strict=True):
        assert getattr(found, "value_type", found) == getattr(wanted, "value_type", wanted)
    assert table.num_rows == count if count else table.num_rows > 0


def test_clips_are_there_as_video_and_as_latents(run_dir: Path) -> None:
    for folder, prompts in (("generate", 4), ("baseline", 3), ("evaluate", 3)):
        clips = rows(run_dir, f"{folder}/clips.parquet")
        assert len({row["seed"] for row in clips}) == len({row["clip_id"] for row in clips}) == len(clips)
        assert len({row["prompt_id"] for row in clips}) == prompts
        for row in clips:
            assert read_video(run_dir / folder / row["video"], (64, 64)).shape == (3, 13, 64, 64)
            latents = load_file(run_dir / folder / row["latents"])["latents"]
            assert latents.shape == (LAYOUT["z_dim"], 4, 8, 8)
            assert latents.isfinite().all()


def test_base_and_aligned_share_prompts_and_seeds_that_training_never_had(run_dir: Path) -> None:
    base, aligned = (rows(run_dir, f"{stage}/clips.parquet") for stage in ("baseline", "evaluate"))
    shared = ("clip_id", "prompt_id", "prompt", "seed")
    assert [[row[name] for name in shared] for row in base] == [[row[name] for name in shared] for row in aligned]
    trained = rows(run_dir, "generate/clips.parquet")
    for column in ("prompt", "seed"):
        assert not {row[column] for row in base} & {row[column] for row in trained}


def test_pairs_prefer_the_clip_with_the_higher_reward(run_dir: Path) -> None:
    rewards = {
        (folder, row["clip_id"]): row
        for folder in ("generate", "good", "repair")
        for row in rows(run_dir, f"score/{folder}/rewards.parquet")
    }
    rewarded = [pair for pair in rows(run_dir, "pair/pairs.parquet") if pair["rejected_folder"] != "restore"]
    repaired = [pair for pair in rewarded if "repair" in (pair["chosen_folder"], pair["rejected_folder"])]
    assert len(rewarded) - len(repaired) == 4 + 12
    assert 0 < len(repaired) <= 4 * 2 + 4  # each against the candidates that were not repaired, and against its own
    for pair in rewarded:
        chosen, rejected = (rewards[pair[f"{side}_folder"], pair[side]] for side in ("chosen", "rejected"))
        assert chosen["prompt_id"] == rejected["prompt_id"] == pair["prompt_id"]
        assert pair["clip_margin"] == pytest.approx(chosen["reward"] - rejected["reward"], abs=1e-6)
        assert pair["clip_margin"] > 0
        margins = [a - b for a, b in zip(chosen["patch_rewards"], rejected["patch_rewards"], strict=True)]
        assert pair["patch_margins"] == pytest.approx(margins, abs=1e-6)


@pytest.mark.parametrize("name", STAGES)
def test_manifests_tell_how_each_stage_was_made(run_dir: Path, name: str) -> None:
    told = manifest(run_dir, name)
    assert told["stage"] == name
    assert told["inputs"].keys() == INPUTS[name]
    if name != "pair":  # not every repaired clip is better than the candidate that it was made from
        assert told["skipped"] == []
    assert told["versions"].keys() >= {"python", "halovid", "torch", "diffusers", "transformers", "peft"}
    if name != "report":
        assert told["config"].get("seed", 3) == RECIPE["seed"]
    tables = (run_dir / name).rglob("*.parquet")
    written = {str(path.relative_to(run_dir / name)) for path in tables if path.parent.name != "parts"}
    assert written <= told["outputs"].keys()
    assert results(run_dir, name), "a stage without outputs"
    assert not list((run_dir / name).rglob(".*")), "temporary files are left"
    left = {path.name for path in (run_dir / name / "parts").glob("*") if path.suffix != ".parquet"}
    assert left <= {"threads.json"}


def training_log(run_dir: Path) -> list[dict[str, float]]:
    """What each step of the alignment logged, without what was measured of the averaged weights."""
    lines = [json.loads(line) for line in (run_dir / "align" / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("monitor/")} for line in lines]


def test_pairs_without_a_judge_prefer_the_good_clip_where_it_was_damaged(run_dir: Path) -> None:
    latents = {
        row["clip_id"]: load_file(run_dir / stage / row["latents"])["latents"]
        for stage in ("good", "restore")
        for row in rows(run_dir, f"{stage}/clips.parquet")
    }
    for pair in rows(run_dir, "restore/pairs.parquet"):
        good, restored = latents[pair["chosen"]], latents[pair["rejected"]]
        changed = (good - restored).abs().amax(0).reshape(2, 2, 2, 4, 2, 4).amax((1, 3, 5)) > 1e-4
        assert changed.flatten().tolist() == [margin > 0 for margin in pair["patch_margins"]]
        assert 0 < pair["clip_margin"] <= 1


@pytest.mark.parametrize("source", ["good", "twins", "restored"])
def test_the_policy_learns_from_good_clips_and_from_what_the_base_makes_of_them(
    source: str, finished_run: Callable[..., Path], tiny_recipe: Path
) -> None:
    folder = finished_run(before="score")
    for stage in ("score", "pair", "align"):
        outcome = run_here(stage, tiny_recipe, folder, "--set", f"pair.sources=[{source}]")
        assert outcome.code == 0, outcome.stderr
    pairs, others = rows(folder, "pair/pairs.parquet"), {"good": "generate", "twins": "restore"}
    assert pairs and len((folder / "align" / "log.jsonl").read_text().splitlines()) == RECIPE["align"]["steps"]
    if source == "restored":
        assert pairs == rows(folder, "restore/pairs.parquet")
        return
    rewards = {
        row["clip_id"]: row
        for name in (others[source], "good")
        for row in rows(folder, f"score/{name}/rewards.parquet")
    }
    remade = {pair["rejected"]: pair["patch_margins"] for pair in rows(folder, "restore/pairs.parquet")}
    for pair in pairs:
        chosen, rejected = rewards[pair["chosen"]], rewards[pair["rejected"]]
        known = [0.1 * share for share in remade.get(pair["rejected"], [0.0] * 8)]
        patches = zip(chosen["patch_rewards"], rejected["patch_rewards"], known, strict=True)
        assert pair["patch_margins"] == pytest.approx([a - b + more for a, b, more in patches], abs=1e-6)
        assert pair["clip_margin"] == pytest.approx(chosen["reward"] - rejected["reward"] + fmean(known), abs=1e-6)
        assert pair["clip_margin"] > 0


def test_pairs_whose_chosen_clip_moves_less_are_dropped(
    finished_run: Callable[..., Path], tiny_recipe: Path, run_dir: Path
) -> None:
    folder, least = finished_run(before="pair"), 1.0
    outcome = run_here("pair", tiny_recipe, folder, "--set", f"pair.min_motion={least}")
    assert outcome.code == 0, outcome.stderr
    files = {
        (name, row["clip_id"]): folder / name / row["video"]
        for name in ("generate", "good", "repair", "restore")
        for row in rows(folder, f"{name}/clips.parquet")
    }

    def moves_enough(pair: dict[str, Any]) -> bool:
        clips = (read_video(files[pair[f"{side}_folder"], pair[side]], (64, 64)) for side in ("chosen", "rejected"))
        chosen, rejected = (dynamic_degree(clip).item() for clip in clips)
        return chosen >= least * rejected

    everything = rows(run_dir, "pair/pairs.parquet")
    expected = [pair for pair in everything if moves_enough(pair)]
    assert rows(folder, "pair/pairs.parquet") == expected and 0 < len(expected) < len(everything)
    dropped = [entry for entry in manifest(folder, "pair")["skipped"] if "min_motion" in entry["reason"]]
    assert len(dropped) == len(everything) - len(expected)
    none_left = run_here("pair", tiny_recipe, folder, "--set", "pair.min_motion=99")
    assert none_left.code == 2 and "lower pair.min_motion" in none_left.stderr


def test_align_leaves_samples_a_log_and_curves(run_dir: Path) -> None:
    log = (run_dir / "align" / "log.jsonl").read_text().splitlines()
    assert len(log) == RECIPE["align"]["steps"]
    assert [path.name for path in sorted((run_dir / "align" / "samples").iterdir())] == [
        "p00000-step000000.mp4",
        "p00000-step000003.mp4",
        "p00000-step000006.mp4",
    ]
    assert list((run_dir / "align" / "tensorboard").glob("events.*"))


def test_the_report_holds_the_verdict_and_the_summary_names_the_report(first_run: tuple[Path, Outcome]) -> None:
    run_dir, outcome = first_run
    page = (run_dir / "report" / "report.html").read_text(encoding="utf-8")
    assert re.search(r"The aligned generator makes (\d+% (fewer|more) defective sprite patches than|as many)", page)
    assert "<h1>Tiny report</h1>" in page
    for stage in ("baseline", "evaluate"):
        clips = [base64.b64encode(path.read_bytes()) for path in (run_dir / stage / "clips").iterdir()]
        assert sum(clip.decode() in page for clip in clips) == RECIPE["report"]["clips"]
    assert "report/report.html" in outcome.stdout
    assert "defective" in outcome.stdout


def test_secrets_of_the_environment_are_nowhere(first_run: tuple[Path, Outcome]) -> None:
    run_dir, outcome = first_run
    for secret in SECRETS.values():
        assert secret not in outcome.stdout + outcome.stderr
        for path in run_dir.rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_a_second_run_skips_everything_and_changes_nothing(run_dir: Path, tiny_recipe: Path) -> None:
    before = snapshot(run_dir)
    outcome = run_here("run", tiny_recipe, run_dir)
    assert outcome.code == 0
    assert [line for line in outcome.stderr.splitlines() if line.endswith("complete, skipped")] == [
        f"{name}: complete, skipped" for name in STAGES
    ]
    after = snapshot(run_dir)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {".lock", ".lock-owner"}


@pytest.mark.parametrize("name", STAGES)
def test_the_same_seed_gives_the_same_run_in_another_folder(run_dir: Path, other_run: Path, name: str) -> None:
    assert results(other_run, name) == results(run_dir, name)


@pytest.mark.parametrize(
    "name",
    list(STAGES)[:-1],
)
def test_the_same_seed_gives_the_same_manifest(run_dir: Path, other_run: Path, name: str) -> None:
    assert manifest(other_run, name) == manifest(run_dir, name)


def test_the_same_seed_gives_the_same_clips(run_dir: Path, other_run: Path) -> None:
    for pattern in ("*/clips/*.mp4", "*/latents/*.safetensors", "align/samples/*.mp4"):
        paths = sorted(run_dir.glob(pattern))
        assert paths
        for path in paths:
            assert path.read_bytes() == (other_run / path.relative_to(run_dir)).read_bytes(), path


def test_another_seed_gives_another_run(run_dir: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    assert run_here("generate", tiny_recipe, tmp_path / "run", "--set", "seed=4").code == 0
    clips, others = (rows(folder, "generate/clips.parquet") for folder in (run_dir, tmp_path / "run"))
    assert not {row["seed"] for row in clips} & {row["seed"] for row in others}


def test_a_reward_model_goes_on_from_another_runs(
    finished_run: Callable[..., Path], run_dir: Path, tiny_recipe: Path
) -> None:
    going_on = finished_run(before="reward")
    short = ("--set", "reward.video_steps=0", "--set", "reward.patch_steps=1")
    start = run_dir / "reward"
    outcome = run_here("reward", tiny_recipe, going_on, "--set", f"reward.start={start}", *short)
    assert outcome.code == 0, outcome.stderr
    before, after = (load_file(folder / "reward.safetensors") for folder in (start, going_on / "reward"))
    moved = {name: (after[name] - before[name]).abs().max().item() for name in before}
    assert 0 < moved["video_head.weight"] < 0.1, "one step from where the other run ended"
    assert moved["shift"] == moved["scale"] == 0, "on the same scale"


def test_the_lora_loads_in_diffusers_and_makes_the_aligned_clips(run_dir: Path, tiny_pipeline: Path) -> None:
    pipe = WanPipeline.from_pretrained(tiny_pipeline, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    generator = RECIPE["generator"]

    def sample(row: dict[str, Any]) -> torch.Tensor:
        settings = {key: generator[key] for key in ("num_frames", "height", "width", "num_inference_steps")}
        seed = torch.Generator().manual_seed(row["seed"])
        return pipe(
            row["prompt"],
            "",
            guidance_scale=GeneratorConfig().guidance_scale,
            generator=seed,
            output_type="latent",
            **settings,
        ).frames[0]

    row = rows(run_dir, "baseline/clips.parquet")[0]
    base, aligned = (load_file(run_dir / stage / row["latents"])["latents"] for stage in ("baseline", "evaluate"))
    torch.testing.assert_close(sample(row), base, rtol=0, atol=1e-4)
    pipe.load_lora_weights(run_dir / "align" / "weights", weight_name=LORA)
    torch.testing.assert_close(sample(row), aligned, rtol=0, atol=1e-4)
    assert (aligned - base).abs().max() > 1e-2, "the adapter changes nothing"


def test_the_merged_pipeline_samples_what_the_adapter_does(run_dir: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    command = ("merge", str(tiny_recipe), str(run_dir), str(tmp_path / "merged"))
    process = start_apart(Plan(command, tmp_path / "log", Kill("merged")))
    process.join(120)
    assert process.exitcode == -9 and not (tmp_path / "merged").exists()
    outcome = run_here(*command)
    assert outcome.code == 0, outcome.stderr
    arguments = (tiny_recipe, tmp_path / "next", "--set", f"generator.model={tmp_path / 'merged'}")
    assert run_here("baseline", *arguments).code == 0
    folders = (tmp_path / "next" / "baseline", run_dir / "evaluate")
    for row in rows(run_dir, "evaluate/clips.parquet"):
        merged, aligned = (load_file(folder / row["latents"])["latents"] for folder in folders)
        torch.testing.assert_close(merged, aligned, rtol=0, atol=1e-3)
    again = run_here("merge", tiny_recipe, run_dir, tmp_path / "merged")
    assert again.code == 2 and "exists" in again.stderr
    assert not list(tmp_path.glob(".merged*")), "a temporary folder was left"
    nothing = run_here("merge", tiny_recipe, tmp_path / "next", tmp_path / "other")
    assert nothing.code == 2 and "halovid align" in nothing.stderr


def test_the_weights_that_are_saved_are_the_averaged_ones(
    run_dir: Path, finished_run: Callable[..., Path], tiny_recipe: Path
) -> None:
    copy = finished_run(before="align")
    assert run_here("align", tiny_recipe, copy, "--set", "align.ema=0").code == 0
    logs = [training_log(folder) for folder in (copy, run_dir)]
    assert logs[0] == logs[1], "the average must not touch the training"
    last, averaged = (load_file(folder / "align" / "weights" / LORA) for folder in (copy, run_dir))
    assert max((last[name] - averaged[name]).abs().max() for name in last) > 1e-3


def test_a_label_budget_is_spent_in_rounds(
    finished_run: Callable[..., Path], tiny_recipe: Path, tmp_path: Path
) -> None:
    folder = finished_run(before="judge")
    pilot = ("--set", "judge.share=0.25")
    for stage in ("judge", "reward"):
        assert run_here(stage, tiny_recipe, folder, *pilot).code == 0
    first = {(row["clip_id"], row["aspect"]): row["patch_scores"] for row in rows(folder, "judge/labels.parquet")}
    questions = tmp_path / "questions.parquet"
    assert run_here("select", tiny_recipe, folder, questions, "--share", "0.5").code == 0
    again = ("--set", f"judge.questions={questions}")
    for stage in ("judge", "reward"):
        assert run_here(stage, tiny_recipe, folder, *again).code == 0
    count, known = 0, 0
    for row in rows(folder, "judge/labels.parquet"):
        if row["patch_scores"] is not None:
            both = (first[row["clip_id"], row["aspect"]], row["patch_scores"])
            old, new = (np.array(scores, dtype=float) for scores in both)
            assert np.array_equal(new[~np.isnan(old)], old[~np.isnan(old)]), "a label of the first round has changed"
            count, known = count + len(new), known + (~np.isnan(new)).sum()
    assert known == count / 2
    spent = run_here("select", tiny_recipe, folder, tmp_path / "more.parquet", "--share", "0.4")
    assert spent.code == 2 and "50%" in spent.stderr


def test_the_reward_model_may_rate_both_models_too(finished_run: Callable[..., Path], tiny_recipe: Path) -> None:
    folder = finished_run(before="baseline")
    for stage in ("baseline", "evaluate"):
        assert run_here(stage, tiny_recipe, folder, "--set", "evaluate.instruments=[reward]").code == 0
    measured = rows(folder, "evaluate/measures.parquet")
    for name in ("reward_clip", "reward_patches"):
        assert len([row for row in measured if row["measure"] == name]) == 12
        assert name in {row["measure"] for row in rows(folder, "evaluate/metrics.parquet")}


def test_rewards_are_the_means_of_the_ratings_by_aspect(run_dir: Path) -> None:
    by_clip: dict[str, list[dict[str, Any]]] = {}
    for row in rows(run_dir, "score/generate/ratings.parquet"):
        by_clip.setdefault(row["clip_id"], []).append(row)
    rewards = rows(run_dir, "score/generate/rewards.parquet")
    assert by_clip.keys() == {row["clip_id"] for row in rewards}
    for row in rewards:
        own = by_clip[row["clip_id"]]
        assert row["reward"] == pytest.approx(np.mean([rating["score"] for rating in own]), abs=1e-5)
        local = [rating["patch_scores"] for rating in own if rating["patch_scores"] is not None]
        assert row["patch_rewards"] == pytest.approx(np.mean(local, axis=0), abs=1e-5)
