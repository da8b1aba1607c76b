"""Whatever is wrong with the input, a stage ends with one sentence that helps, and finished work stays."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from conftest import Outcome, adopt, manifest, results, run_apart, run_here, snapshot
from halovid.clips.folder import ClipFolder
from halovid.stages import STAGES, judge
from halovid.store import checkpoint
from halovid.store.lock import locked
from halovid.store.tables import REWARDS, patch_lists, patch_matrix
from halovid.world_training.vae import LAYOUT

pytestmark = pytest.mark.e2e

Copy = Callable[..., Path]
CAPTION = (
    "A small striped red circle drifts left, a big plain blue ring rises, a small checked green cross orbits and "
    "a big shaded yellow square bobs on a grey background."
)


def assert_refused(outcome: Outcome, *words: str, code: int = 2) -> None:
    """One line of error, the last one, that has these words."""
    assert outcome.code == code, outcome.stderr
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, outcome.stderr
    assert outcome.stderr.endswith(errors[0] + "\n"), "something follows the error, or it has several lines"
    assert "Traceback" not in outcome.stderr
    for word in words:
        assert word in errors[0]


def refuse(run_dir: Path, *argv: object, words: tuple[str, ...], code: int = 2) -> Outcome:
    """Calls the command, which must refuse and leave every finished stage as it is."""
    finished = [run_dir / name for name in STAGES if (run_dir / name / "manifest.json").exists()]
    before = {folder: snapshot(folder) for folder in finished}
    outcome = run_here(*argv)
    assert_refused(outcome, *words, code=code)
    assert {folder: snapshot(folder) for folder in finished} == before
    return outcome


def cut(path: Path) -> None:
    """Leaves the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# --- the recipe -----------------------------------------------------------------------------------------------


def test_a_mistake_ends_the_real_command_in_one_line(finished_run: Copy, tiny_recipe: Path, tmp_path: Path) -> None:
    run_dir = finished_run()
    recipe = tmp_path / "misspelt.yaml"
    recipe.write_text(tiny_recipe.read_text().replace("candidates:", "candidats:"))
    before = snapshot(run_dir)
    outcome = run_apart("run", recipe, run_dir)
    assert_refused(outcome, "'generate.candidats'", "did you mean 'candidates'?", "allowed here: prompts, candidates")
    assert outcome.stdout == ""
    assert snapshot(run_dir) == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generate.candidates=many", ("generate.candidates", "'many'", "integer")),
        ("generate.candidates=0", ("generate.candidates", "got 0", "greater than or equal to 1")),
        ("judge.judge=oracle", ("judge.judge", "'oracle'", "'inspector', 'simulated', 'table' or 'openai'")),
        ("generator=5", ("generator", "got 5", "dictionary")),
        ("align.lora.rnak=4", ("'align.lora.rnak'", "did you mean 'rank'?", "allowed here: rank, alpha, targets")),
        ("grid.depth=4", ("'grid.depth'", "allowed here: t, h, w")),
        ("seed", ("'seed'", "section.key=value")),
        ("seed.x=1", ("'seed.x=1'", "'seed' is a value")),
        ("align.steps=[1", ("'align.steps=[1'", "YAML")),
    ],
)
def test_a_setting_that_is_not_allowed(
    override: str, words: tuple[str, ...], first_run: tuple[Path, Outcome], tiny_recipe: Path
) -> None:
    refuse(first_run[0], "run", tiny_recipe, first_run[0], "--set", override, words=words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: [1, 2\ngrid: }", ("is not valid YAML",)),
        ("- seed\n- grid\n", ("must be a mapping of sections", "list")),
        ("just words", ("must be a mapping of sections", "str")),
    ],
)
def test_a_recipe_that_is_none(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    refuse(tmp_path / "run", "run", recipe, tmp_path / "run", words=(str(recipe), *words))
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    refuse(tmp_path, "run", tmp_path / "none.yaml", tmp_path / "run", words=("none.yaml", "No such file"))
    refuse(tmp_path, "run", tmp_path, tmp_path / "run", words=(str(tmp_path), "it is a folder"))
    (tmp_path / "latin.yaml").write_bytes("title: \N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1"))
    refuse(tmp_path, "run", tmp_path / "latin.yaml", tmp_path / "run", words=("latin.yaml", "is not UTF-8 text"))


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99"])
def test_a_device_that_is_not_here(name: str, finished_run: Copy, tiny_recipe: Path) -> None:
    run_dir = finished_run(before="score")
    words = (f"device '{name}' can't be used here", "use auto, cpu, cuda or mps")
    refuse(run_dir, "score", tiny_recipe, run_dir, "--set", f"device={name}", words=words)


@pytest.mark.parametrize("model", ["nobody/no-such-model", "/no/such/folder"])
def test_a_model_that_does_not_exist(
    model: str, finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path
) -> None:
    run_dir = finished_run()
    override = ("--set", f"generator.model={model}")
    for command in ("run", "generate", "align", "baseline", "evaluate"):
        refuse(
            run_dir, command, tiny_recipe, run_dir, *override, words=(f"generator.model '{model}'", "save_pretrained")
        )
    assert not (run_dir / "superseded").exists()
    assert "generate: complete, skipped" in run_here("generate", tiny_recipe, run_dir).stderr, "clips were lost"
    assert results(run_dir, "generate") == results(first_run[0], "generate")


@pytest.mark.parametrize("setting", ["reward.model", "score.released", "good.source", "judge.questions"])
def test_a_model_or_folder_that_is_not_there_is_told_before_anything_is_run(
    setting: str, finished_run: Copy, tiny_recipe: Path
) -> None:
    run_dir = finished_run()
    stage, _ = setting.split(".")
    for command in ("run", stage):
        refuse(run_dir, command, tiny_recipe, run_dir, "--set", f"{setting}=no/such-model", words=("no/such-model",))
    assert not (run_dir / "superseded").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("num_frames=12", ("num_frames is 12", "4 * k + 1")),
        ("height=60", ("generator.height: got 60", "multiple of 8")),
        ("height=72", ("72 x 64", "multiples of 16")),
    ],
)
def test_a_clip_size_that_the_model_cannot_make(
    setting: str, words: tuple[str, ...], tiny_recipe: Path, tmp_path: Path
) -> None:
    argv = ("generate", tiny_recipe, tmp_path, "--set", f"generator.{setting}")
    refuse(tmp_path, *argv, words=words)


# --- prompts --------------------------------------------------------------------------------------------------


def with_prompts(path: Path, *more: str) -> list[str]:
    """Overrides that take the prompts of generate from a file."""
    return ["--set", f"generate.prompts={{file: {path}}}", *more]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("holds no usable prompt", "it is empty", "put one prompt on each line")),
        ("\n  \n\n", ("holds no usable prompt", "it is empty")),
        ("a\x00b\n" + "x" * 5000, ("prompt 0: contains control characters (U+0000)", "prompt 1: 5000 characters long")),
    ],
)
def test_prompt_files_without_a_usable_prompt(
    content: str, words: tuple[str, ...], finished_run: Copy, tiny_recipe: Path, tmp_path: Path
) -> None:
    run_dir, path = finished_run(), tmp_path / "prompts.txt"
    path.write_text(content)
    refuse(run_dir, "run", tiny_recipe, run_dir, *with_prompts(path), words=(str(path), *words))


def test_prompt_files_that_cannot_be_read(tiny_recipe: Path, tmp_path: Path) -> None:
    argv = ("generate", tiny_recipe, tmp_path / "run")
    path = tmp_path / "none.txt"
    refuse(tmp_path, *argv, *with_prompts(path), words=("can't read", str(path), "No such file"))
    refuse(tmp_path, *argv, *with_prompts(tmp_path), words=("generate.prompts.file", "is a folder; name a file"))
    (tmp_path / "rows.jsonl").write_text('{"text": "a cat"}\n')
    refuse(tmp_path, *argv, *with_prompts(tmp_path / "rows.jsonl"), words=("rows.jsonl", "needs a `prompt`"))
    (tmp_path / "latin.txt").write_bytes("\N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1"))
    refuse(tmp_path, *argv, *with_prompts(tmp_path / "latin.txt"), words=("latin.txt", "is not UTF-8"))


def test_emoji_are_fine_and_prompts_that_no_judge_can_read_are_listed(tiny_recipe: Path, tmp_path: Path) -> None:
    run_dir, path = tmp_path / "run", tmp_path / "prompts.txt"
    foreign = "a cat \N{CAT FACE} on the moon"
    path.write_text(f"{CAPTION} \N{FOX FACE}\nbroken\x07\n{foreign}\n", encoding="utf-8")
    overrides = with_prompts(path, "--set", "generate.candidates=1", "--set", "judge.judge=inspector")

    outcome = run_here("generate", tiny_recipe, run_dir, *overrides)
    assert outcome.code == 0
    assert [row["prompt"] for row in pq.read_table(run_dir / "generate" / "clips.parquet").to_pylist()] == [
        f"{CAPTION} \N{FOX FACE}",
        foreign,
    ]
    [refused] = manifest(run_dir, "generate")["skipped"]
    assert refused == {"item": "prompt 1", "reason": "contains control characters (U+0007)"}
    assert "generate: 1 skipped (prompt 1: contains control characters" in outcome.stderr

    outcome = run_here("judge", tiny_recipe, run_dir, *overrides)
    assert outcome.code == 0
    judged = pq.read_table(run_dir / "judge" / "labels.parquet")
    assert set(judged.column("clip_id").to_pylist()) == {"p00000-00"}
    [refused] = manifest(run_dir, "judge")["skipped"]
    assert refused["item"] == "p00002-00"
    assert "not a caption of the embedded world" in refused["reason"] and foreign in refused["reason"]
    assert "judge: 1 skipped (p00002-00: not a caption" in outcome.stderr


def test_clips_of_a_size_that_the_inspector_cannot_measure_are_told(tiny_recipe: Path, tmp_path: Path) -> None:
    overrides = ("--set", "generator.num_frames=5", "--set", "generate.prompts.count=1")
    assert run_here("generate", tiny_recipe, tmp_path / "run", *overrides).code == 0
    words = ("not one of 3 clips could be judged", "13 frames of 64 x 64")
    refuse(tmp_path / "run", "judge", tiny_recipe, tmp_path / "run", *overrides, words=words)


def test_no_prompt_that_the_judge_can_read(tiny_recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\n")
    overrides = with_prompts(path, "--set", "generate.candidates=1")
    assert run_here("generate", tiny_recipe, tmp_path / "run", *overrides).code == 0
    words = ("not one of 2 clips could be judged", "not a caption of the embedded world", "choose another judge")
    refuse(tmp_path / "run", "judge", tiny_recipe, tmp_path / "run", *overrides, words=words)


def test_held_out_prompts_that_the_inspector_cannot_read(finished_run: Copy, tiny_recipe: Path, tmp_path: Path) -> None:
    run_dir, path = finished_run(before="baseline"), tmp_path / "prompts.txt"
    path.write_text(f"{CAPTION}\na cat\n")
    words = ("evaluate.instruments names 'inspector'", "p00001", "'a cat'", "take it out")
    argv = ("baseline", tiny_recipe, run_dir, "--set", f"evaluate.prompts={{file: {path}}}")
    refuse(run_dir, *argv, words=words)
    assert not (run_dir / "baseline").exists(), "it was said only after the work began"


def test_a_reward_model_to_start_from_that_is_not_there_or_of_another_shape(
    finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path
) -> None:
    run_dir = finished_run(before="reward")
    argv = ("reward", tiny_recipe, run_dir, "--set")
    refuse(run_dir, *argv, "reward.start=nowhere", words=("reward.start is ", "nowhere", "give a folder that"))
    other = ("--set", "reward.width=32")
    start = f"reward.start={first_run[0] / 'reward'}"
    refuse(run_dir, *argv, start, *other, words=("of another shape than this recipe's", "width 16, not 32"))


# --- what earlier stages wrote --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "missing"),
    [
        ("judge", "generate"),
        ("reward", "generate"),
        ("score", "generate"),
        ("pair", "score"),
        ("align", "generate"),
        ("evaluate", "baseline"),
        ("report", "evaluate"),
    ],
)
def test_a_stage_before_those_that_it_reads(stage: str, missing: str, tiny_recipe: Path, tmp_path: Path) -> None:
    words = (f"the stage '{missing}' is not complete in {tmp_path}", f"run `halovid {missing}` first")
    refuse(tmp_path, stage, tiny_recipe, tmp_path, words=words)
    assert not (tmp_path / stage).exists()


def test_a_truncated_table_is_refused_and_can_be_made_again(
    finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path
) -> None:
    run_dir = finished_run(before="pair")
    path = run_dir / "score" / "generate" / "rewards.parquet"
    cut(path)
    words = (str(path), "is missing or not what the stage 'score' wrote", "run `halovid score`")
    refuse(run_dir, "pair", tiny_recipe, run_dir, words=words)
    outcome = run_here("score", tiny_recipe, run_dir)
    assert "score: generate/rewards.parquet missing or damaged, made again" in outcome.stderr
    assert run_here("pair", tiny_recipe, run_dir).code == 0
    for stage in ("score", "pair"):
        assert results(run_dir, stage) == results(first_run[0], stage)


def test_a_truncated_manifest(finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path) -> None:
    run_dir = finished_run(before="align")
    path = run_dir / "pair" / "manifest.json"
    cut(path)
    words = (str(path), "is damaged", "delete it and run the stage again")
    for stage in ("align", "pair"):
        refuse(run_dir, stage, tiny_recipe, run_dir, words=words)
    path.unlink()
    assert run_here("pair", tiny_recipe, run_dir).code == 0
    assert manifest(run_dir, "pair") == manifest(first_run[0], "pair")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (b"halovid.version", b"999", ("version '999'", "reads 'rewards' version '1'", "again")),
        (b"halovid.table", b"pairs", ("table 'pairs'", "reads 'rewards'")),
        (b"halovid.table", None, ("table '?'", "reads 'rewards'")),
    ],
)
def test_a_table_of_another_kind_or_version(
    key: bytes, value: bytes | None, words: tuple[str, ...], finished_run: Copy, tiny_recipe: Path
) -> None:
    run_dir = finished_run(before="pair")
    path = run_dir / "score" / "generate" / "rewards.parquet"
    table = pq.read_table(path)
    metadata = {k: v for k, v in (table.schema.metadata | {key: value}).items() if v is not None}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    adopt(run_dir, "score")
    refuse(run_dir, "pair", tiny_recipe, run_dir, words=(str(path), *words))


def test_truncated_reward_weights(finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path) -> None:
    run_dir = finished_run(before="score")
    cut(run_dir / "reward" / "reward.safetensors")
    path = run_dir / "reward" / "reward.safetensors"
    words = (str(path), "not what the stage 'reward' wrote", "run `halovid reward`")
    refuse(run_dir, "score", tiny_recipe, run_dir, words=words)
    assert run_here("reward", tiny_recipe, run_dir).code == 0
    assert results(run_dir, "reward") == results(first_run[0], "reward")


def test_truncated_latents(finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path) -> None:
    run_dir = finished_run(before="align")
    for path in (run_dir / "generate" / "latents").iterdir():
        cut(path)
    words = ("latents", "is missing or not what the stage 'generate' wrote", "run `halovid generate`")
    refuse(run_dir, "align", tiny_recipe, run_dir, words=words)
    assert run_here("generate", tiny_recipe, run_dir).code == 0
    assert results(run_dir, "generate") == results(first_run[0], "generate")
    assert "pair: complete, skipped" in run_here("pair", tiny_recipe, run_dir).stderr, "the same clips again"


@pytest.mark.parametrize("name", ["geometry.json", "prompts/p00001.safetensors", "clips.parquet"])
def test_what_lies_beside_clips_is_made_anew_without_sampling(
    name: str, finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path
) -> None:
    run_dir = finished_run(before="judge")
    (run_dir / "generate" / name).unlink()
    before = snapshot(run_dir / "generate" / "clips")
    assert run_here("generate", tiny_recipe, run_dir).code == 0
    assert snapshot(run_dir / "generate" / "clips") == before
    assert results(run_dir, "generate") == results(first_run[0], "generate")


def test_one_damaged_clip_costs_one_batch(
    finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path
) -> None:
    run_dir = finished_run(before="judge")
    cut(run_dir / "generate" / "clips" / "p00001-01.mp4")
    words = ("p00001-01.mp4", "is missing or not what the stage 'generate' wrote", "run `halovid generate`")
    refuse(run_dir, "judge", tiny_recipe, run_dir, words=words)
    before = snapshot(run_dir / "generate" / "clips")
    assert run_here("generate", tiny_recipe, run_dir).code == 0
    changed = [name for name, state in snapshot(run_dir / "generate" / "clips").items() if state != before[name]]
    assert len(changed) == 4, "more than the batch of the damaged clip was sampled again"
    assert results(run_dir, "generate") == results(first_run[0], "generate")


def test_clips_that_cannot_be_read_are_skipped_counted_and_shown(
    finished_run: Copy, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "_BATCH", 4)  # several batches: a bad clip must not take its batch with it
    run_dir = finished_run(before="judge")
    for name in ("p00001-01", "p00003-00"):
        cut(run_dir / "generate" / "clips" / f"{name}.mp4")
    adopt(run_dir, "generate")
    for stage in ("judge", "reward", "good", "repair", "restore", "score", "pair"):
        outcome = run_here(stage, tiny_recipe, run_dir)
        assert outcome.code == 0, outcome.stderr
        skipped = manifest(run_dir, stage)["skipped"]
        if stage in ("judge", "repair", "score"):
            assert [entry["item"] for entry in skipped] == ["p00001-01", "p00003-00"]
            assert all("is not a readable video" in entry["reason"] for entry in skipped)
            assert f"{stage}: 2 skipped (p00001-01: " in outcome.stderr
    rewards = pq.read_table(run_dir / "score" / "generate" / "rewards.parquet")
    assert sorted(set(rewards["clip_id"].to_pylist()) ^ {f"p{p:05d}-{i:02d}" for p in range(4) for i in range(3)}) == [
        "p00001-01",
        "p00003-00",
    ]


def test_evaluated_clips_that_cannot_be_read_are_left_out_of_the_report(finished_run: Copy, tiny_recipe: Path) -> None:
    run_dir = finished_run(before="report")
    cut(run_dir / "evaluate" / "clips" / "p00000-00.mp4")
    adopt(run_dir, "evaluate")
    outcome = run_here("report", tiny_recipe, run_dir)
    assert outcome.code == 0, outcome.stderr
    [skipped] = manifest(run_dir, "report")["skipped"]
    assert skipped["item"] == "p00000-00" and "is not a readable video" in skipped["reason"]
    assert "report: 1 skipped (p00000-00: " in outcome.stderr
    assert "report: p00000-00: " in (run_dir / "report" / "report.html").read_text(encoding="utf-8")


def test_no_clip_that_can_be_read(finished_run: Copy, tiny_recipe: Path) -> None:
    run_dir = finished_run(before="score")
    for path in (run_dir / "generate" / "clips").iterdir():
        cut(path)
    adopt(run_dir, "generate")
    assert run_here("score", tiny_recipe, run_dir).code == 0
    assert len(manifest(run_dir, "score")["skipped"]) == 12
    refuse(run_dir, "pair", tiny_recipe, run_dir, words=("no usable pair among 0 scored clips",))


def edit_rewards(run_dir: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes the table of rewards, as if the stage had written it like this."""
    path = run_dir / "score" / "generate" / "rewards.parquet"
    pq.write_table(change(pq.read_table(path)).replace_schema_metadata(REWARDS.metadata), path)
    adopt(run_dir, "score")


def test_rewards_that_are_not_finite(finished_run: Copy, tiny_recipe: Path) -> None:
    run_dir = finished_run(before="pair")
    path = run_dir / "score" / "generate" / "rewards.parquet"
    good = path.read_bytes()

    def nan_clip(table: pa.Table) -> pa.Table:
        values = np.array(table["reward"].to_pylist(), dtype=np.float32)
        values[5] = np.nan
        return table.set_column(table.column_names.index("reward"), "reward", pa.array(values))

    def infinite_patch(table: pa.Table) -> pa.Table:
        values = patch_matrix(table, "patch_rewards").copy()
        values[[2, 7], 1] = np.inf
        return table.set_column(table.column_names.index("patch_rewards"), "patch_rewards", patch_lists(values))

    for change, count in ((nan_clip, 1), (infinite_patch, 2)):
        path.write_bytes(good)
        edit_rewards(run_dir, change)
        words = (f"{count} of 12 clips have rewards that are not finite", "run `halovid score` again")
        refuse(run_dir, "pair", tiny_recipe, run_dir, words=words)


def test_one_candidate_per_prompt_gives_no_pair(finished_run: Copy, tiny_recipe: Path) -> None:
    run_dir = finished_run(before="pair")
    edit_rewards(run_dir, lambda table: table.filter(pc.match_substring_regex(table["clip_id"], "-00$")))
    words = ("no usable pair among 4 scored clips of 4 prompts", "generate more candidates or lower pair.min_margin")
    for strategy in ("best_worst", "all", "random"):
        argv = ("pair", tiny_recipe, run_dir, "--set", f"pair.strategy={strategy}")
        refuse(run_dir, *argv, words=(*words, strategy))


@pytest.mark.parametrize("strategy", ["best_worst", "all", "random"])
def test_a_prompt_with_a_single_scored_clip_is_listed(strategy: str, finished_run: Copy, tiny_recipe: Path) -> None:
    run_dir = finished_run(before="pair")
    edit_rewards(
        run_dir, lambda table: table.filter(pc.invert(pc.match_substring_regex(table["clip_id"], "p00001-0[01]")))
    )
    changes = ("--set", f"pair.strategy={strategy}", "--set", "pair.sources=[candidates]")
    outcome = run_here("pair", tiny_recipe, run_dir, *changes)
    assert outcome.code == 0
    assert manifest(run_dir, "pair")["skipped"] == [{"item": "p00001", "reason": "fewer than two scored clips"}]
    assert "pair: 1 skipped (p00001: fewer than two scored clips)" in outcome.stderr
    pairs = pq.read_table(run_dir / "pair" / "pairs.parquet")
    assert set(pairs["prompt_id"].to_pylist()) == {"p00000", "p00002", "p00003"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("align.lora.targets=[to_x]", ("align.lora.targets", "'to_x'", "not found")),
        ("grid={t: 2, h: 3, w: 2}", ("the pairs have [8] patches", "grid (2, 3, 2) has 12", "run `halovid score`")),
    ],
)
def test_settings_of_align_that_do_not_fit(
    override: str, words: tuple[str, ...], finished_run: Copy, tiny_recipe: Path
) -> None:
    run_dir = finished_run(before="align")
    refuse(run_dir, "align", tiny_recipe, run_dir, "--set", override, words=words)


def test_a_margin_that_no_pair_has(finished_run: Copy, tiny_recipe: Path) -> None:
    run_dir = finished_run(before="pair")
    words = ("no usable pair among 12 scored clips", "min_margin 100.0", "lower pair.min_margin")
    refuse(run_dir, "pair", tiny_recipe, run_dir, "--set", "pair.min_margin=100", words=words)


# --- the machine ----------------------------------------------------------------------------------------------


def test_two_processes_on_one_run_folder(finished_run: Copy, tiny_recipe: Path) -> None:
    run_dir = finished_run(before="pair")
    with locked(run_dir):
        words = (f"{run_dir} is in use by process {os.getpid()}", "wait for it or choose another folder")
        refuse(run_dir, "pair", tiny_recipe, run_dir, words=words)
        assert not (run_dir / "pair").exists()
    assert run_here("pair", tiny_recipe, run_dir).code == 0


def test_run_folders_that_cannot_be_written(tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for run_dir in (tmp_path / "file" / "run", tmp_path / "file", Path("/proc/run")):
        assert_refused(run_here("generate", tiny_recipe, run_dir), f"can't write the run folder {run_dir}: ")
    assert (tmp_path / "file").read_text() == "not a folder"


class FullDisk:
    """`os.fsync` and `save_file` on a disk that is full after some writes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def fsync(self, handle: int) -> None:
        """Fails as the system call does."""
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save_file(self, tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        """Fails as safetensors does, which has an exception of its own."""
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


FULL = ("can't write", "No space left on device", "what is finished is kept", "run the same command again")


def test_a_full_disk_costs_nothing_that_is_finished(
    first_run: tuple[Path, Outcome], tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(room=22).fsync)  # within the second of three batches
        assert_refused(run_here("generate", tiny_recipe, run_dir), *FULL)
    [part] = (run_dir / "generate" / "parts").glob("*.parquet")
    assert part.name.startswith("generate-000000-000004-")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", FullDisk(room=0).save_file)
        assert_refused(run_here("generate", tiny_recipe, run_dir), *FULL)
    outcome = run_here("generate", tiny_recipe, run_dir)
    assert outcome.code == 0
    assert "generate: 4/12," not in outcome.stderr
    assert manifest(run_dir, "generate") == manifest(first_run[0], "generate")
    assert results(run_dir, "generate") == results(first_run[0], "generate")


def test_a_disk_that_is_full_at_the_last_write(
    finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = finished_run(before="score")
    with monkeypatch.context() as patch:
        room = 3 + 5 + 2  # lock, fingerprint and threads; five parts; two tables
        patch.setattr(os, "fsync", FullDisk(room).fsync)
        assert_refused(run_here("score", tiny_recipe, run_dir), *FULL)
    assert (run_dir / "score" / "generate" / "rewards.parquet").exists() and not (
        run_dir / "score" / "manifest.json"
    ).exists()
    outcome = run_here("score", tiny_recipe, run_dir)
    assert outcome.code == 0
    assert "score: " not in outcome.stderr, "finished batches were scored again"
    assert manifest(run_dir, "score") == manifest(first_run[0], "score")


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_the_batch(
    finished_run: Copy, first_run: tuple[Path, Outcome], tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = finished_run(before="align")
    latents = ClipFolder.latents
    with monkeypatch.context() as patch:
        patch.setattr(ClipFolder, "latents", lambda self, row: latents(self, row) + float("inf"))
        words = ("the loss is not finite at step 0", "bad_batch_0.safetensors", "align.learning_rate")
        refuse(run_dir, "align", tiny_recipe, run_dir, words=words, code=1)
    batch = load_file(run_dir / "align" / "bad_batch_0.safetensors")
    assert batch.keys() == {*("latents", "prompt_embeds", "clip_margin", "patch_margins", "weight", "noise", "level")}
    assert batch["latents"].shape == batch["noise"].shape == (2, 2, LAYOUT["z_dim"], 4, 8, 8)
    assert batch["latents"].isinf().all() and batch["noise"].isfinite().all()
    assert not (run_dir / "align" / "weights").exists()
    assert run_here("align", tiny_recipe, run_dir).code == 0
    assert results(run_dir, "align").items() >= results(first_run[0], "align").items()


def test_an_interrupt_says_how_to_go_on(finished_run: Copy, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = finished_run(before="score")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("halovid.rewards.rewarder.load_reward", interrupted)
    refuse(run_dir, "score", tiny_recipe, run_dir, words=("interrupted", "run the same command again"), code=130)
