"""The golden record: a small run whose numbers no rearrangement of the code may change.

A change that is meant to change them makes the record anew, `HALOVID_NEW_RECORD=1 pytest tests/golden`, and says why in
dev/LOG.md. Kernels are pinned to AVX2, so that they round alike on newer processors; on the processor and with the
torch that made the record numbers must be equal bit for bit, elsewhere to within rounding.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from conftest import RECIPE, run_apart

RECORD = Path(__file__).parent / "record.json"
PINNED_KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
STEPS = 20
ROUNDING = 1e-3  # other kernels differ by 1e-6 a step, which training lets grow
COUNTED = ("metric ", "agreement ", "/accuracies", "/patch_accuracies")  # what rounding can make jump


def processor() -> str:
    """What processor and torch the numbers were computed with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    identity = [line.split(":")[1].strip() for line in lines if line.startswith(("cpu family", "model\t", "flags"))][:3]
    digest = hashlib.sha256(" ".join(identity).encode()).hexdigest()[:12]
    return f"{platform.machine()} {digest} torch {torch.__version__}"


@pytest.fixture(scope="module")
def numbers(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that the record holds, computed now."""
    folder = tmp_path_factory.mktemp("golden")
    recipe = RECIPE | {
        "generator": RECIPE["generator"] | {"model": str(tiny_pipeline)},
        "pair": {"pairs_per_prompt": 1, "sources": ["candidates", "good", "twins", "restored"]},
        "align": RECIPE["align"] | {"steps": STEPS, "sample_every": 10},
    }
    collected = dict(run(recipe, folder, "run"))
    collected["align, lora"] = log(folder / "run" / "align")
    full = recipe | {"align": recipe["align"] | {"method": "full", "learning_rate": 1e-4}}
    run(full, folder, "align")
    return collected | {"align, full": log(folder / "run" / "align")}


def run(recipe: dict[str, Any], folder: Path, command: str) -> Iterator[tuple[str, Any]]:
    """Runs a command on one thread with pinned kernels; the tables of the run."""
    path, run_dir = folder / "recipe.yaml", folder / "run"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    outcome = run_apart(command, path, run_dir, env=PINNED_KERNELS)
    assert outcome.code == 0, outcome.stderr
    return tables(run_dir)


def tables(run_dir: Path) -> Iterator[tuple[str, Any]]:
    """Rewards, pairs, agreement and metrics as plain values."""
    for table in sorted((run_dir / "score").glob("**/*rewards.parquet")):
        for row in pq.read_table(table).to_pylist():
            yield f"reward of {row['clip_id']}", [row["reward"], *row["patch_rewards"]]
    yield (
        "pairs",
        [
            [row["chosen"], row["rejected"], row["clip_margin"], *row["patch_margins"], row["weight"]]
            for row in pq.read_table(run_dir / "pair" / "pairs.parquet").to_pylist()
        ],
    )
    for row in pq.read_table(run_dir / "examine" / "agreement.parquet").to_pylist():
        yield f"agreement {row['scope']} {row['scoring']} {row['aspect']}", [row["spearman"], row["auroc"]]
    for row in pq.read_table(run_dir / "evaluate" / "metrics.parquet").to_pylist():
        yield f"metric {row['measure']}", [row["base"], row["aligned"], row["low"], row["high"]]


def log(folder: Path) -> dict[str, list[float]]:
    """The curve of everything that a training logged at every step."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {name: [line[name] for line in lines] for name in sorted(lines[0]) if name != "step"}


def compare(now: Any, recorded: Any, exact: bool, path: str = "") -> Iterator[str]:
    """Where two nested values differ."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for key in sorted(recorded.keys() | now.keys()):
            yield from compare(now.get(key), recorded.get(key), exact, f"{path}/{key}")
    elif isinstance(recorded, list) and isinstance(now, list) and len(now) == len(recorded):
        for index, pair in enumerate(zip(now, recorded, strict=True)):
            yield from compare(*pair, exact, f"{path}[{index}]")
    elif not (now == recorded or (not exact and is_close(now, recorded, path))):
        yield f"{path}: {now} instead of {recorded}"


def is_close(now: Any, recorded: Any, path: str) -> bool:
    """Whether two numbers are equal but for the rounding of another processor."""
    jumps = any(part in path for part in COUNTED)
    return jumps or (None not in (now, recorded) and now == pytest.approx(recorded, rel=ROUNDING, abs=ROUNDING))


def test_the_numbers_are_those_of_the_record(numbers: dict[str, Any]) -> None:
    numbers = json.loads(json.dumps(numbers).replace("NaN", "null"))
    if os.environ.get("HALOVID_NEW_RECORD"):
        record = {"made with": processor(), "numbers": numbers}
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    differences = list(compare(numbers, record["numbers"], exact=record["made with"] == processor()))
    assert not differences, f"{len(differences)} numbers differ: {differences[:10]}"


def test_the_record_covers_what_it_must() -> None:
    numbers = json.loads(RECORD.read_text(encoding="utf-8"))["numbers"]
    for method in ("lora", "full"):
        assert len(numbers[f"align, {method}"]["loss/total"]) == STEPS
    assert len(numbers["pairs"]) > 20
    assert sum(name.startswith("metric ") for name in numbers) > 10
