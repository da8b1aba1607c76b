"""The commands `halovid label` and `halovid label export`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conftest import run_here
from halovid.labelling import server
from halovid.labelling.service import Labelling
from halovid.maths.grid import PatchGrid
from halovid.store.manifests import write_manifest
from people_run import good_scores, make_run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Labelling, int]]:
    """The calls of `server.serve`, which are recorded instead of served."""
    calls: list[tuple[Labelling, int]] = []
    monkeypatch.setattr(server, "serve", lambda labelling, port: calls.append((labelling, port)))
    return calls


def label_one(labelling: Labelling, name: str, state: str = "done") -> None:
    annotator = labelling.join(name)["annotator"]
    task = labelling.next(annotator, "rate")["task"]
    content = {"scores": good_scores()}
    labelling.save(annotator, task["item"], state, content, 0, f"id-{time.monotonic_ns()}")  # type: ignore[arg-type]


def test_label_serves_the_run_and_export_writes_what_is_finished(
    served: list[tuple[Labelling, int]], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run")
    outcome = run_here("label", run_dir, "--grid", "2x2x3", "--port", "9999")
    assert outcome.code == 0, outcome.stderr
    ((labelling, port),) = served
    assert (labelling.settings.grid, labelling.settings.overlap, port) == (PatchGrid(2, 2, 3), 0.2, 9999)
    label_one(labelling, "Ann")
    label_one(labelling, "Bob", "skipped")
    outcome = run_here("label", "export", run_dir, tmp_path / "labels.parquet")
    assert outcome.code == 0, outcome.stderr
    message = " ".join(outcome.stderr.split())
    assert "5 rows of 1 people" in message and "1 items were skipped" in message
    rows = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [len(row["patch_scores"] or ()) for row in rows] == [12, 12, 0, 0, 0]
    nothing = run_here("label", "export", run_dir, tmp_path / "pairs.parquet", "--what", "preferences")
    assert nothing.code == 2 and "holds nothing finished" in nothing.stderr


def test_options_that_are_left_out_are_those_of_the_beginning(
    served: list[tuple[Labelling, int]], tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path / "run")
    first = ("--grid", "1x2x2", "--overlap", "0.5", "--seed", "3", "--patch-aspect", "factual_consistency")
    assert run_here("serve-is-no-command").code == 2
    assert run_here("label", "serve", run_dir, *first).code == 0
    assert run_here("label", run_dir).code == 0
    assert served[0][0].settings == served[1][0].settings
    changed = run_here("label", run_dir, "--overlap", "0.1")
    assert changed.code == 2 and "begun with" in changed.stderr


def test_the_grid_is_that_of_the_judge(served: list[tuple[Labelling, int]], tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    config = {"grid": {"t": 3, "h": 5, "w": 2}}
    write_manifest(run_dir / "judge", {"fingerprint": "", "outputs": {}, "skipped": [], "config": config})
    assert run_here("label", run_dir).code == 0
    assert served[0][0].settings.grid == PatchGrid(3, 5, 2)


def test_base_and_aligned_have_labels_of_their_own(served: list[tuple[Labelling, int]], tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", evaluated=True)
    assert run_here("label", run_dir, "--of", "evaluate").code == 0
    label_one(served[0][0], "Ann")
    assert (run_dir / "label/evaluate.sqlite").exists() and not (run_dir / "label/generate.sqlite").exists()
    out = tmp_path / "labels.parquet"
    assert run_here("label", "export", run_dir, out, "--of", "evaluate").code == 0
    assert pq.read_table(out).column("clip_id")[0].as_py().startswith(("base/", "aligned/"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("label", "RUN", "--grid", "4x4"), "must look like 4x4x4"),
        (("label", "RUN", "--grid", "0x4x4"), "must look like"),
        (("label", "RUN", "--patch-aspect", "beauty"), "aspects are visual_quality"),
        (("label", "RUN", "--of", "evaluate"), "run `halovid baseline` first"),
        (("label", "RUN", "--database", "mysql://u:secret@h/d"), "known are postgresql://"),
        (("label", "nowhere"), "no run folder"),
        (("label", "export", "RUN", "out.parquet"), "there are no labels"),
        (("label", "export", "nowhere", "out.parquet"), "no run folder"),
    ],
)
def test_mistakes_end_with_one_sentence(
    arguments: tuple[str, ...], words: str, tmp_path: Path, served: list[tuple[Labelling, int]]
) -> None:
    run_dir = make_run(tmp_path / "run", prompts=1, candidates=1)
    outcome = run_here(*(str(run_dir) if argument == "RUN" else argument for argument in arguments))
    assert outcome.code == 2
    assert words in " ".join(outcome.stderr.split()) and "secret" not in outcome.stderr
    assert not served


def test_a_port_in_use_is_told(tmp_path: Path, open_labelling: Callable[..., Labelling]) -> None:
    import socket

    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        run_dir = make_run(tmp_path / "run", prompts=1, candidates=1)
        outcome = run_here("label", run_dir, "--port", occupied.getsockname()[1])
    assert outcome.code == 2 and "choose another with --port" in " ".join(outcome.stderr.split())


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("halovid.labelling")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    os.mkdir(tmp_path / "run")
    outcome = run_here("label", tmp_path / "run")
    assert outcome.code == 2 and "halovid[people]" in outcome.stderr
