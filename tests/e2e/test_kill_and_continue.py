"""Stages that are killed half-way and run again must end as if nothing had happened, and not begin anew."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import LORA, Kill, Outcome, Plan, manifest, results, run_here, start_apart
from halovid.rewards import training
from halovid.stages import STAGES, judge
from halovid.store.tables import REWARDS, patch_matrix, read_table
from halovid.training import loop

pytestmark = pytest.mark.e2e

# a judge's batch and a reward model's checkpoint are larger than the whole tiny run
CONSTANTS = {"halovid.stages.judge._BATCH": 4, "halovid.rewards.training.CHECKPOINT_EVERY": 4}


@dataclass(frozen=True)
class Case:
    """A stage, where it is killed, what it has made by then, and progress that must not be reported a second time."""

    stage: str
    kill: Kill
    left: tuple[str, ...] = ()
    done: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.stage}, {self.kill.when} {self.kill.pattern}"


CASES = [
    Case("generate", Kill("prompts/p00002.safetensors"), left=("geometry.json", "prompts/p00001.safetensors")),
    Case("generate", Kill("clips/p00001-02.mp4"), ("parts/generate-000000-000004-*.parquet",), ("generate: 4/12",)),
    Case("generate", Kill("generate/manifest.json"), ("clips.parquet",), ("generate: 12/12",)),
    Case("judge", Kill("parts/judge-000004-*.parquet"), ("parts/judge-000000-*.parquet",), ("judge: 4/12",)),
    Case("reward", Kill("parts/training.safetensors", "after"), done=("reward: 4/20",)),
    Case("reward", Kill("reward/agreement.parquet"), ("reward.safetensors",), ("reward: 16/20",)),
    Case("good", Kill("parts/encode-good-clips-000003-*.parquet"), done=("encode good clips: 3/4",)),
    Case(
        "score",
        Kill("parts/score-000004-*.parquet", "after"),
        done=("score: 4/20", "score: 8/20"),
    ),
    Case("repair", Kill("clips/repaired-p00001-*.mp4"), left=("clips/repaired-p00000-*.mp4",)),
    Case("repair", Kill("parts/repair-000002-*.parquet"), ("parts/repair-000000-*.parquet",), ("repair: 2/4",)),
    Case("repair", Kill("repair/clips.parquet"), ("repairs.parquet",), ("repair: 4/4",)),
    Case("restore", Kill("parts/restore-000003-*.parquet"), ("parts/restore-000000-*.parquet",), ("restore: 3/8",)),
    Case("pair", Kill("pair/pairs.parquet")),
    Case("pair", Kill("pair/pairs.parquet", "after"), ("pairs.parquet",)),
    Case("pair", Kill("pair/manifest.json"), ("pairs.parquet",)),
    Case("align", Kill("parts/training.safetensors", "after"), done=("align: 1/6", "align: 2/6")),
    Case("align", Kill("samples/*-step000006.mp4"), ("parts/training.safetensors",), ("align: 4/6",)),
    Case("align", Kill("align/manifest.json"), ("weights/" + LORA, "log.jsonl"), ("align: 6/6",)),
    Case("baseline", Kill("parts/sample-base-000004-*.parquet"), ("clips/p00001-01.mp4",), ("sample base: 4/6",)),
    Case("baseline", Kill("baseline/measures.parquet"), ("clips.parquet",), ("measure base: 6/6",)),
    Case("examine", Kill("examine/agreement.parquet")),
    Case("evaluate", Kill("parts/sample-aligned-000000-*.parquet"), ("clips/p00001-01.mp4",)),
    Case("evaluate", Kill("evaluate/metrics.parquet"), ("measures.parquet",), ("measure aligned: 6/6",)),
    Case("report", Kill("report/report.html")),
    Case("report", Kill("report/manifest.json"), ("report.html",)),
]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The constants of the killed process hold for the one that continues, too."""
    monkeypatch.setattr(judge, "_BATCH", CONSTANTS["halovid.stages.judge._BATCH"])
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", CONSTANTS["halovid.rewards.training.CHECKPOINT_EVERY"])


def assert_like_uninterrupted(run_dir: Path, reference: Path, stage: str) -> None:
    """The stage's outputs and manifest are those of a run that nothing has disturbed, and nothing else is left."""
    assert results(run_dir, stage) == results(reference, stage)
    ours, theirs = manifest(run_dir, stage), manifest(reference, stage)
    for key in ("config", "inputs", "skipped", "fingerprint"):
        assert ours[key] == theirs[key], key
    left = {path.name for path in (run_dir / stage / "parts").glob("*") if path.suffix != ".parquet"}
    assert left <= {"threads.json"}
    assert not list((run_dir / stage).rglob(".*")), "temporary files of the killed process are left"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_killed_at_a_write_and_continued(
    case: Case, first_run: tuple[Path, Outcome], finished_run: Callable[..., Path], tiny_recipe: Path, tmp_path: Path
) -> None:
    run_dir = finished_run(before=case.stage)
    process = start_apart(
        Plan((case.stage, str(tiny_recipe), str(run_dir)), tmp_path / "log", case.kill, constants=CONSTANTS)
    )
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    folder = run_dir / case.stage
    assert not (folder / "manifest.json").exists()
    for name in case.left:
        assert list(folder.glob(name)), name

    outcome = run_here(case.stage, tiny_recipe, run_dir)
    assert outcome.code == 0, outcome.stderr
    for line in case.done:
        assert f"{line}," not in outcome.stderr, "made a second time"
    assert_like_uninterrupted(run_dir, first_run[0], case.stage)


@pytest.mark.parametrize(
    ("stage", "sign"), [("generate", "parts/generate-000000-*.parquet"), ("align", "parts/training.safetensors")]
)
def test_killed_from_outside_and_continued(
    stage: str,
    sign: str,
    first_run: tuple[Path, Outcome],
    finished_run: Callable[..., Path],
    tiny_recipe: Path,
    tmp_path: Path,
) -> None:
    run_dir = finished_run(before=stage)
    process = start_apart(Plan((stage, str(tiny_recipe), str(run_dir)), tmp_path / "log"))
    deadline = time.monotonic() + 120
    while not list((run_dir / stage).glob(sign)):
        assert process.is_alive() and time.monotonic() < deadline, "the sign of work never came"
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not (run_dir / stage / "manifest.json").exists()
    assert run_here(stage, tiny_recipe, run_dir).code == 0
    assert_like_uninterrupted(run_dir, first_run[0], stage)


def test_continued_with_a_smaller_batch(
    first_run: tuple[Path, Outcome], finished_run: Callable[..., Path], tiny_recipe: Path, tmp_path: Path
) -> None:
    run_dir = finished_run(before="score")
    kill = Kill("parts/score-000004-*.parquet", "after")
    process = start_apart(Plan(("score", str(tiny_recipe), str(run_dir)), tmp_path / "log", kill))
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    outcome = run_here("score", tiny_recipe, run_dir, "--set", "score.batch_size=3")
    assert outcome.code == 0, outcome.stderr
    assert "score: 8/16" not in outcome.stderr, "made a second time"
    assert manifest(run_dir, "score")["fingerprint"] == manifest(first_run[0], "score")["fingerprint"]
    continued, whole = (
        read_table(folder / "score/generate/rewards.parquet", REWARDS) for folder in (run_dir, first_run[0])
    )
    assert continued.slice(0, 8) == whole.slice(0, 8)
    assert continued["clip_id"] == whole["clip_id"]
    np.testing.assert_allclose(*(patch_matrix(table, "patch_rewards") for table in (continued, whole)), atol=1e-4)


def test_a_whole_run_killed_again_and_again(first_run: tuple[Path, Outcome], tiny_recipe: Path, tmp_path: Path) -> None:
    run_dir, patience, kills = tmp_path / "run", 1.0, 0
    while True:
        process = start_apart(Plan(("run", str(tiny_recipe), str(run_dir)), tmp_path / "log", constants=CONSTANTS))
        process.join(patience)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills, patience = kills + 1, patience * 1.5
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert kills >= 2
    for stage in STAGES:
        assert results(run_dir, stage) == results(first_run[0], stage)


@dataclass
class Interrupted:
    """`loop.train_step`, which stops at some steps the first time that it comes to them."""

    stops: list[int]
    steps: list[int] = field(default_factory=list)

    def __call__(self, alignment: Any, optimizer: Any, step: int) -> Any:
        if step in self.stops:
            self.stops.remove(step)
            raise RuntimeError("interrupted")
        self.steps.append(step)
        return TRAIN_STEP(alignment, optimizer, step)


TRAIN_STEP = loop.train_step


@pytest.mark.parametrize("method", ["lora", "full"])
def test_align_continues_exactly(
    method: str, finished_run: Callable[..., Path], tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = finished_run(before="align")
    argv = ("align", tiny_recipe, run_dir, "--set", f"align.method={method}")
    assert run_here(*argv).code == 0
    whole = run_dir / "align"
    whole.rename(tmp_path / "whole")

    interrupted = Interrupted(stops=[1, 3, 5])
    monkeypatch.setattr(loop, "train_step", interrupted)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="interrupted"):
            run_here(*argv)
    assert run_here(*argv).code == 0
    assert interrupted.steps == [0, 0, 1, 2, 2, 3, 4, 4, 5], "every second step leaves a checkpoint"

    assert (run_dir / "align" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    weights, reference = (load_weights(folder) for folder in (run_dir / "align", tmp_path / "whole"))
    assert weights.keys() == reference.keys() and weights
    for name, value in weights.items():
        assert torch.equal(value, reference[name]), name


@pytest.mark.parametrize("method", ["lora", "full"])
def test_micro_batches_change_only_the_rounding(
    method: str, finished_run: Callable[..., Path], tiny_recipe: Path
) -> None:
    run_dir = finished_run(before="align")
    weights, logs = [], []
    for parts in (1, 2):  # a batch of 3 in parts of 2 and 1
        settings = (f"method={method}", "batch_size=3", f"micro_batches={parts}", "learning_rate=1e-4", "steps=4")
        overrides = [part for setting in settings for part in ("--set", f"align.{setting}")]
        assert run_here("align", tiny_recipe, run_dir, *overrides).code == 0
        weights.append(load_weights(run_dir / "align"))
        logs.append([json.loads(line) for line in (run_dir / "align" / "log.jsonl").read_text().splitlines()])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5)  # a tenth of one Adam step
    for whole, cut in zip(*logs, strict=True):
        assert cut == pytest.approx(whole, rel=1e-4, abs=1e-6)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that an align folder holds."""
    [path] = (folder / "weights").rglob("*.safetensors")
    return load_file(path)
