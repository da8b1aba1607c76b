"""What the trainings logged is kept beside the recipes."""

from __future__ import annotations

import json
from pathlib import Path

from halovid.world_training.record import record


def test_logs_are_copied_and_drawn_and_a_missing_one_is_left_out(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1 / step, "psnr": 20.0 + step, "seconds": 1.0} for step in (50, 100, 150)]
    for name in ("vae", "generator"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record(tmp_path, tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"vae.jsonl", "generator.jsonl", "curves.svg"}
    assert (tmp_path / "kept" / "vae.jsonl").read_text() == (tmp_path / "vae.jsonl").read_text()
    assert "<svg" in (tmp_path / "kept" / "curves.svg").read_text()
