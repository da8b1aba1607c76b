"""What the stage-level tests share: a tiny random pipeline, a tiny recipe, and ways to call the command."""

from __future__ import annotations

import os

# before torch is imported, and inherited by every process that a test starts
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import contextlib
import fnmatch
import hashlib
import importlib
import io
import json
import multiprocessing
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import hypothesis
import pytest
import safetensors.torch
import torch
import transformers
import yaml

from halovid.cli import main as cli
from halovid.stages import STAGES
from halovid.store.files import hash_file
from halovid.store.manifests import write_manifest
from halovid.store.tables import CLIPS, read_table, rows_to_table, write_table
from halovid.store.video import write_video
from tiny_wan_pipelines import tiny_wan

# how long an example takes says something of the machine, nothing of the code
hypothesis.settings.register_profile("halovid", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("halovid")
pytest_plugins = ["people_fixtures", "chromium_fixtures", "vlm_fixtures"]
torch.set_num_threads(1)
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

LORA = "pytorch_lora_weights.safetensors"
RECIPE: dict[str, Any] = {
    "seed": 3,
    "device": "cpu",
    "threads": 1,
    "generator": {"num_frames": 13, "height": 64, "width": 64, "num_inference_steps": 2, "batch_size": 4},
    "grid": {"t": 2, "h": 2, "w": 2},
    "generate": {"prompts": {"count": 4}, "candidates": 3},
    "reward": {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "downscale": 2,
        "video_steps": 10,
        "patch_steps": 10,
        "batch_size": 4,
        "crops": 2,
    },
    "score": {"batch_size": 4},
    "good": {"source": "world", "per_prompt": 1, "batch_size": 3},
    "repair": {"per_prompt": 1, "rounds": 2, "tries": 2, "threshold": 6.0, "steps": 2, "batch_size": 2},
    "restore": {"per_prompt": 2, "most_regions": 2, "steps": 2, "batch_size": 3},
    "pair": {"pairs_per_prompt": 1, "sources": ["candidates", "repaired", "before_repair", "good", "restored"]},
    "align": {
        "lora": {"rank": 4, "alpha": 4},
        "steps": 6,
        "batch_size": 2,
        "learning_rate": 0.01,
        "warmup": 2,
        "ema": 0.5,
        "checkpoint_every": 2,
        "sample_every": 3,
        "sample_prompts": 1,
    },
    "examine": {"clips": 4, "crop_clips": 1},
    "evaluate": {
        "prompts": {"split": "heldout", "count": 3, "seed": 1},
        "samples": 2,
        "num_resamples": 100,
    },
    "report": {"title": "Tiny report", "clips": 2},
}


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Kill:
    """A place at which a process kills itself: before or after a file whose path matches is put in place."""

    pattern: str
    when: str = "before"


@dataclass(frozen=True)
class Plan:
    """What a forked process runs: the command line, where it logs, its end, and constants to set beforehand."""

    argv: tuple[str, ...]
    log: Path
    kill: Kill | None = None
    constants: Mapping[str, int] = field(default_factory=dict)


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `WanPipeline` folder in the packaged layout with far smaller, random weights."""
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    tiny_wan().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that runs all stages with the tiny pipeline in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    recipe = RECIPE | {"generator": RECIPE["generator"] | {"model": str(tiny_pipeline)}}
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


SECRETS = {"HF_TOKEN": "hf_neverWriteThisAnywhere", "OPENAI_API_KEY": "sk-neverWriteThisAnywhereEither"}


@pytest.fixture(scope="session")
def first_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a whole uninterrupted `halovid run`, and what the command said. Not to be changed: copy it."""
    run_dir = tmp_path_factory.mktemp("first") / "run"
    outcome = run_apart("run", tiny_recipe, run_dir, env=SECRETS)
    assert outcome.code == 0, outcome.stderr
    return run_dir, outcome


@pytest.fixture
def finished_run(first_run: tuple[Path, Outcome], tmp_path: Path) -> Callable[..., Path]:
    """Gives a copy of the finished run, from which the named stage and all later ones are removed."""

    def copy(before: str | None = None) -> Path:
        run_dir = tmp_path / "run"
        shutil.copytree(first_run[0], run_dir)
        for name in list(STAGES)[list(STAGES).index(before) :] if before else ():
            shutil.rmtree(run_dir / name)
        return run_dir

    return copy


def run_here(*argv: object) -> Outcome:
    """Calls the command in this process; an exception that it does not handle fails the test."""
    out, err, saved = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["halovid", *map(str, argv)]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = saved
    return Outcome(code, out.getvalue(), err.getvalue())


def run_apart(*argv: object, env: Mapping[str, str] | None = None) -> Outcome:
    """Calls the installed command in a process of its own."""
    command = Path(sys.executable).with_name("halovid")
    done = subprocess.run(
        [str(command), *map(str, argv)], capture_output=True, text=True, env=os.environ | (env or {}), timeout=300
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def start_apart(plan: Plan) -> multiprocessing.process.BaseProcess:
    """Starts a command in a process of its own, forked from a server that has the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["halovid.cli.summary", *(f"halovid.stages.{name}" for name in STAGES)])
    process = context.Process(target=_run_plan, args=(plan,), daemon=True)
    process.start()
    return process


def _run_plan(plan: Plan) -> None:
    """What the forked process does; its exit code is the command's, or that of the kill."""
    torch.set_num_threads(1)
    for name, value in plan.constants.items():
        module, constant = name.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), constant), name
        setattr(importlib.import_module(module), constant, value)
    if plan.kill:
        _arm(plan.kill)
    outcome = run_here(*plan.argv)
    plan.log.write_text(outcome.stderr)
    os._exit(outcome.code)


def _arm(kill: Kill) -> None:
    """Makes this process kill itself, as the kernel would, at a file that is put in place."""
    replace = pathlib.Path.replace

    def replace_and_die(self: Path, target: Path) -> Path:
        hit = fnmatch.fnmatch(str(target), f"*/{kill.pattern}")
        if hit and kill.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = replace(self, target)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    pathlib.Path.replace = replace_and_die  # type: ignore[assignment, method-assign]


def manifest(run_dir: Path, stage: str) -> dict[str, Any]:
    """The manifest of a finished stage."""
    return json.loads((run_dir / stage / "manifest.json").read_text(encoding="utf-8"))


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file below a folder, with its hash and time of change."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (hash_file(path), path.stat().st_mtime_ns) for path in files}


def results(run_dir: Path, stage: str) -> dict[str, str]:
    """The hash of every output of a finished stage; the manifest must tell the same of the files.

    Of a LoRA without its metadata.
    """
    found = {}
    for name, digest in manifest(run_dir, stage)["outputs"].items():
        content = (run_dir / stage / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, f"{stage}/{name} is not what its manifest says"
        if name.endswith(LORA):
            content = safetensors.torch.save(safetensors.torch.load(content))
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def with_hashes(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """A row of tables.CLIPS with the hashes of those of its files that are there."""
    files = {name: folder / row[name] if row[name] else None for name in ("video", "latents")}
    hashes = {name: hash_file(path) if path and path.is_file() else None for name, path in files.items()}
    return row | {f"{name}_sha256": digest for name, digest in hashes.items()}


def adopt(run_dir: Path, stage: str) -> None:
    """Makes the files of a stage, as they are now, those that it wrote."""
    folder = run_dir / stage
    if (folder / "clips.parquet").exists():
        rows = [with_hashes(folder, row) for row in read_table(folder / "clips.parquet", CLIPS).to_pylist()]
        write_table(folder / "clips.parquet", rows_to_table(rows, CLIPS))
    told = manifest(run_dir, stage)
    told["outputs"] = {name: hash_file(folder / name) for name in told["outputs"]}
    write_manifest(folder, {key: value for key, value in told.items() if key != "checksum"})


CLIP_SHAPES = [(9, 256, 256, 8.0), (13, 256, 272, 10.0), (30, 288, 256, 24.0), (8, 256, 256, 8.0)]


@pytest.fixture(scope="session")
def clip_pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Some clips, all longer than or as long as a second but for none of them equal."""
    folder, paths = tmp_path_factory.mktemp("pool"), []
    for number, (frames, height, width, fps) in enumerate(CLIP_SHAPES):
        ramp = torch.linspace(-1, 1, frames).view(1, -1, 1, 1) * (1 - 0.3 * number)
        path = folder / f"{number}.mp4"
        write_video(path, ramp.expand(3, -1, height, width), fps)
        paths.append(path)
    return paths


@pytest.fixture
def put(clip_pool: list[Path]) -> Callable[..., Path]:
    """Copies a clip of the pool to a path."""

    def copy(path: Path, number: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip_pool[number % len(clip_pool)], path)
        return path

    return copy
