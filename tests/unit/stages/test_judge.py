"""The stage judge with labels from a file."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from halovid.config.recipes import make_config
from halovid.stages import judge
from halovid.store.folders import open_stage, read_manifest
from halovid.store.tables import CLIPS, LABELS, read_table, rows_to_table
from halovid.store.video import write_video


def test_labels_of_clips_that_are_not_there_are_listed(tmp_path: Path) -> None:
    with open_stage(tmp_path / "run", "generate", {}) as stage:
        assert stage is not None
        rows = [
            {"clip_id": name, "prompt_id": "p", "prompt": "a fox", "seed": 1, "latents": "", "fps": 8.0}
            for name in "ab"
        ]
        for row in rows:
            row["video"] = f"clips/{row['clip_id']}.mp4"
            write_video(stage.path / row["video"], torch.zeros(3, 9, 16, 24), 8.0)
        geometry = {"temporal_stride": 4, "spatial_stride": 8, "causal_first_frame": True}
        (stage.path / "geometry.json").write_text(json.dumps(geometry))
        stage.write("clips.parquet", rows_to_table(rows, CLIPS))
    labels = [{"clip_id": name, "aspect": "visual_quality", "score": 3.0} for name in "acd"]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    config = {
        "generator": {"num_frames": 9, "height": 16, "width": 24},
        "judge": {"judge": "table", "labels": str(tmp_path / "labels.jsonl")},
    }
    judge.run(make_config(config), tmp_path / "run")
    found = read_table(tmp_path / "run/judge/labels.parquet", LABELS).to_pylist()
    assert [row["clip_id"] for row in found] == ["a"]
    manifest = read_manifest(tmp_path / "run" / "judge")
    assert manifest is not None
    assert [entry["item"] for entry in manifest["skipped"]] == ["b", "c", "d"]
