"""Which clips of a run are labelled, and which of them are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import run_here, with_hashes
from halovid.labelling import server
from halovid.labelling.material import load_material
from halovid.store.tables import CLIPS, read_table, rows_to_table, write_table
from halovid.store.video import write_video
from people_run import make_run


@pytest.mark.parametrize("shape", [(13, 48, 32), (9, 32, 48)])
def test_only_clips_of_one_shape_are_compared(
    shape: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run(tmp_path / "run", prompts=2, candidates=3)
    alike = load_material(run_dir, "generate", 0)
    assert len(alike.pairs) == 6 and alike.incomparable == 0
    folder = run_dir / "generate"
    write_video(folder / "clips/p1-01.mp4", torch.zeros(3, *shape), 8)
    rows = [with_hashes(folder, row) for row in read_table(folder / "clips.parquet", CLIPS).to_pylist()]
    write_table(folder / "clips.parquet", rows_to_table(rows, CLIPS))

    material = load_material(run_dir, "generate", 0)
    assert len(material.clips) == 6 and material.incomparable == 1
    assert {pair for pair in alike.pairs if "p1-01" not in (pair.first, pair.second)} == set(material.pairs)
    monkeypatch.setattr(server, "serve", lambda *_: None)
    assert "4 pairs (1 clips have no other of their prompt and shape)" in run_here("label", run_dir).stderr
