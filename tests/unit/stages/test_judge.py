"""The stage judge with labels from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import adopt, with_hashes
from halovid.config.recipes import make_config
from halovid.config.run import RunConfig
from halovid.stages import judge
from halovid.store.errors import InputError
from halovid.store.folders import open_stage
from halovid.store.manifests import read_manifest
from halovid.store.tables import CLIPS, LABELS, read_table, rows_to_table
from halovid.store.video import write_video


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Of a run with the clips a and b, whose labels are in labels.jsonl."""
    with open_stage(tmp_path / "run", "generate", {}) as stage:
        assert stage is not None
        rows = [
            {"clip_id": name, "prompt_id": "p", "prompt": "a fox", "seed": 1, "latents": "", "fps": 8.0}
            for name in "ab"
        ]
        for row in rows:
            row["video"] = f"clips/{row['clip_id']}.mp4"
            write_video(stage.path / row["video"], torch.zeros(3, 9, 16, 24), 8.0)
            row |= with_hashes(stage.path, row)
        geometry = {"temporal_stride": 4, "spatial_stride": 8, "causal_first_frame": True}
        (stage.path / "geometry.json").write_text(json.dumps(geometry))
        stage.write("clips.parquet", rows_to_table(rows, CLIPS))
    settings = {
        "generator": {"num_frames": 9, "height": 16, "width": 24},
        "judge": {"judge": "table", "labels": str(tmp_path / "labels.jsonl")},
    }
    return make_config(settings)


def write_labels(path: Path, clip_ids: str) -> None:
    labels = [{"clip_id": name, "aspect": "visual_quality", "score": 3.0} for name in clip_ids]
    path.write_text("".join(json.dumps(row) + "\n" for row in labels))


def test_labels_of_clips_that_are_not_there_are_listed(config: RunConfig, tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.jsonl", "acd")
    judge.run(config, tmp_path / "run")
    found = read_table(tmp_path / "run/judge/labels.parquet", LABELS).to_pylist()
    assert [row["clip_id"] for row in found] == ["a"]
    manifest = read_manifest(tmp_path / "run" / "judge")
    assert manifest is not None
    assert [entry["item"] for entry in manifest["skipped"]] == ["b", "c", "d"]


def test_a_judge_that_judges_no_clip_is_a_mistake_that_can_be_mended(config: RunConfig, tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.jsonl", "cd")
    for _ in range(2):
        with pytest.raises(InputError, match=r"not one of 2 clips could be judged \(a: .*run the same command again"):
            judge.run(config, tmp_path / "run")
    assert read_manifest(tmp_path / "run" / "judge") is None
    clips = sorted((tmp_path / "run/generate/clips").iterdir())
    write_labels(tmp_path / "labels.jsonl", "ab")
    whole = [path.read_bytes() for path in clips]
    for path in clips:
        path.write_bytes(b"")
    adopt(tmp_path / "run", "generate")
    with pytest.raises(InputError, match=r"\(a: .* is not a readable video"):
        judge.run(config, tmp_path / "run")
    for path, content in zip(clips, whole, strict=True):
        path.write_bytes(content)
    adopt(tmp_path / "run", "generate")
    judge.run(config, tmp_path / "run")
    assert len(read_table(tmp_path / "run/judge/labels.parquet", LABELS)) == 2
