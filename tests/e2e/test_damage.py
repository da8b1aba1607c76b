"""Random damage to a finished run: it is told or mended, and never leads to another result in silence.

HALOVID_DAMAGES=400 tries more of them than the usual tests do.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Outcome, manifest, results, run_here
from halovid.store.files import hash_file
from halovid.store.tables import read_named_files

pytestmark = pytest.mark.e2e

COUNT = int(os.environ.get("HALOVID_DAMAGES", "40"))
ALONE = ("judge", "score", "pair", "examine", "report")  # stages that are run by themselves, being quick
UNREAD = ("tensorboard", "samples", ".lock", ".lock-owner")  # what people look at, and no stage reads
Draw = random.Random


def flip(path: Path, draw: Draw) -> None:
    """One byte becomes another."""
    content = bytearray(path.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
    path.write_bytes(content)


def cut(path: Path, draw: Draw) -> None:
    """The end is missing."""
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))] if content else b"")


def append(path: Path, draw: Draw) -> None:
    """Something follows."""
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randrange(1, 100)))


def delete(path: Path, draw: Draw) -> None:
    """It is not there."""
    path.unlink()


def swap(path: Path, draw: Draw) -> None:
    """It has changed places with a file beside it, or holds anything where there is none."""
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    if not others:
        path.write_bytes(draw.randbytes(1000))
        return
    other = draw.choice(others)
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


DAMAGES: tuple[Callable[[Path, Draw], None], ...] = (flip, flip, cut, append, delete, swap)


def choose_file(run_dir: Path, draw: Draw) -> Path:
    """Any file of the run: of a random stage, of a random folder in it."""
    folder = draw.choice(sorted(path for path in run_dir.iterdir() if path.is_dir()))
    files = [path for path in folder.rglob("*") if path.is_file() and not set(UNREAD) & set(path.parts)]
    parent = draw.choice(sorted({path.parent for path in files}))
    return draw.choice(sorted(path for path in files if path.parent == parent))


def assert_mended(run_dir: Path, reference: Path, stages: list[str]) -> None:
    """All results are those of the undamaged run, clips and their latents included."""
    for stage in stages:
        assert results(run_dir, stage) == results(reference, stage), stage
        for key in ("fingerprint", "inputs", "skipped"):
            assert manifest(run_dir, stage)[key] == manifest(reference, stage)[key], f"{stage}: {key}"
        for name in manifest(run_dir, stage)["outputs"]:
            if name.endswith(".parquet"):
                for file, digest in read_named_files(run_dir / stage / name):
                    assert hash_file(run_dir / stage / file) == digest, file


def assert_told(outcome: Outcome, path: Path) -> None:
    """One sentence that says which file it is about and what to do."""
    assert outcome.code == 2, outcome.stderr
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("error: ") and ("run" in last or "delete" in last), outcome.stderr
    assert path.parent.name in last or path.name in last, outcome.stderr


@pytest.mark.parametrize("seed", range(COUNT))
def test_damage_is_told_or_mended(
    seed: int, first_run: tuple[Path, Outcome], tiny_recipe: Path, tmp_path: Path
) -> None:
    draw = random.Random(seed)
    reference, run_dir = first_run[0], tmp_path / "run"
    stages = [path.name for path in reference.iterdir() if (path / "manifest.json").exists()]
    shutil.copytree(reference, run_dir)
    alone = draw.choice(ALONE) if seed % 2 else None
    if alone:
        shutil.rmtree(run_dir / alone)
    path = choose_file(run_dir, draw)
    damage = draw.choice(DAMAGES)
    damage(path, draw)

    if alone:
        outcome = run_here(alone, tiny_recipe, run_dir)
        if outcome.code == 0:
            assert_mended(run_dir, reference, [alone])
        else:
            assert_told(outcome, path)
    for _ in range(3):  # a swap damages two files
        outcome = run_here("run", tiny_recipe, run_dir)
        if outcome.code == 0:
            break
        assert_told(outcome, path)
        for broken in [broken for broken in run_dir.glob("*/manifest.json") if str(broken) in outcome.stderr]:
            broken.unlink()  # as the sentence says
    assert outcome.code == 0, outcome.stderr
    assert_mended(run_dir, reference, stages)
