"""Every stage with text-to-image pipelines: clips of one frame, from the candidates to the report."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import LORA, manifest, run_here
from halovid.config.recipes import load_config
from halovid.models import open_model
from halovid.stages import required_stages
from halovid.store.tables import LABELS, rows_to_table, write_table
from halovid.store.video import read_video
from tiny_image_pipelines import IMAGES
from tiny_pipelines import chosen
from vlm_fixtures import KEY
from vlm_server import Server

pytestmark = pytest.mark.e2e
GRID = {"t": 1, "h": 2, "w": 2}
PROMPTS = ("a red circle", "a blue square", "a green triangle")
ASPECTS = {"aspects": ["visual_quality", "text_alignment"], "patch_aspects": ["visual_quality"]}
RECIPE: dict[str, Any] = {
    "seed": 3,
    "device": "cpu",
    "threads": 1,
    "grid": GRID,
    "generate": {"prompts": {"file": "prompts.txt"}, "candidates": 2},
    "judge": {"judge": "table", "labels": "labels.parquet"},
    "reward": {"width": 16, "layers": 1, "heads": 2, "patch_size": 8, "video_steps": 2, "patch_steps": 2} | ASPECTS,
    "repair": {"per_prompt": 1, "rounds": 1, "tries": 1, "threshold": 6.0, "steps": 2, "regions": GRID},
    "restore": {"source": "candidates", "per_prompt": 1, "most_regions": 1, "sigma": 1.0, "steps": 3},
    "pair": {"sources": ["candidates", "twins", "restored"], "pairs_per_prompt": 1},
    "align": {"lora": {"rank": 2, "alpha": 2}, "steps": 3, "batch_size": 2, "learning_rate": 0.05, "warmup": 0}
    | {"ema": 0.0, "sample_every": 3, "sample_prompts": 1},
    "evaluate": {"prompts": {"file": "prompts.txt"}, "samples": 2, "num_resamples": 100}
    | {"instruments": ["reward", "diversity", "plain"]},
    "report": {"clips": 2},
}


def write_recipe(folder: Path, name: str, **sections: Any) -> Path:
    """A recipe for a tiny pipeline that is written beside it, with prompts and labels."""
    IMAGES[name].build().save_pretrained(folder / "pipeline")
    frames, height, width = IMAGES[name].size
    generator = {"model": str(folder / "pipeline"), "num_frames": frames, "height": height, "width": width}
    generator |= {"num_inference_steps": 2, "guidance_scale": 2.0, "negative_prompt": "a plain circle"}
    recipe = folder / "recipe.yaml"
    content = RECIPE | {"generator": generator | IMAGES[name].settings} | sections
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    rows = []
    for index in range(len(PROMPTS) * 2):
        patches = [1.0, *[1.0 + index % 4] * (GRID["h"] * GRID["w"] - 1)]
        for aspect in ASPECTS["aspects"]:
            of_patches = patches if aspect in ASPECTS["patch_aspects"] else None
            clip_id = f"p{index // 2:05d}-{index % 2:02d}"
            rows.append({"clip_id": clip_id, "aspect": aspect, "score": 1.0 + index % 4, "patch_scores": of_patches})
    write_table(folder / "labels.parquet", rows_to_table([row | {"judge": "a person"} for row in rows], LABELS))
    return recipe


# one of each kind: a UNet with size ids, squares as tokens, lists of texts, negative prompts encoded in another way
FAMILIES = ("StableDiffusionXLPipeline", "FluxPipeline", "ZImagePipeline", "SanaPipeline")


@pytest.fixture(scope="module", params=chosen(FAMILIES))
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Recipe and run folder after `halovid run`."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = write_recipe(folder, request.param)
    outcome = run_here("run", recipe, folder / "run")
    assert outcome.code == 0, outcome.stderr
    return recipe, folder / "run"


def test_all_stages_are_complete_and_nothing_was_skipped(finished: tuple[Path, Path]) -> None:
    stages = required_stages(load_config(finished[0]))
    assert {"judge", "reward", "restore", "score", "pair", "align", "evaluate", "report"} <= set(stages)
    skipped = [entry for name in stages for entry in manifest(finished[1], name)["skipped"]]
    assert all("no pair with a margin" in entry["reason"] for entry in skipped), "random rewards may tie, no more"


def test_pictures_are_kept_without_loss(finished: tuple[Path, Path]) -> None:
    recipe, run_dir = finished
    model = open_model(load_config(recipe), {"autoencoder"})
    for folder in ("generate", "restore", "baseline", "evaluate"):
        for row in pq.read_table(run_dir / folder / "clips.parquet").to_pylist():
            assert row["video"] == f"clips/{row['clip_id']}.png"
            latents = load_file(run_dir / folder / row["latents"])["latents"]
            expected = ((model.decode_video(latents[None])[0] + 1) * 127.5).round()
            found = ((read_video(run_dir / folder / row["video"]) + 1) * 127.5).round()
            assert (found - expected).abs().max() <= 1, "values halfway between two bytes"
    assert {path.suffix for path in (run_dir / "align" / "samples").iterdir()} == {".png"}


def test_the_training_moved_the_model_and_stayed_finite(finished: tuple[Path, Path]) -> None:
    weights = load_file(finished[1] / "align" / "weights" / LORA)
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)
    lines = (finished[1] / "align" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(torch.isfinite(torch.tensor(json.loads(line)["loss/total"])) for line in lines)


def test_measures_of_motion_are_left_out(finished: tuple[Path, Path]) -> None:
    measures = {row["measure"] for row in pq.read_table(finished[1] / "evaluate" / "metrics.parquet").to_pylist()}
    assert "diversity" in measures
    assert not measures & {"temporal_flickering", "adjacent_frame_ssim", "flow_warp_error", "flow_magnitude"}


def test_the_report_shows_pictures(finished: tuple[Path, Path]) -> None:
    html = (finished[1] / "report" / "report.html").read_text(encoding="utf-8")
    assert html.count('<img class="clip"') == 4 and "<video" not in html
    content = re.search(r'<script type="application/json" id="clip-data">(.*?)</script>', html, re.DOTALL)
    assert content
    data = json.loads(content[1])
    assert data["clock"]["numFrames"] == 1
    for clip in data["clips"]:
        for side in clip["sides"]:
            assert side["type"] == "image/png" and base64.b64decode(side["file"]).startswith(b"\x89PNG")
            assert [len(side["rewards"]), len(side["rewards"][0])] == [GRID["t"], GRID["h"]]


def test_a_model_that_sees_pictures_judges_them(tmp_path: Path, server: Server) -> None:
    vlm = {"base_url": server.base_url, "answers": str(tmp_path / "answers"), "frame_side": 64} | ASPECTS
    judge = {"judge": "openai", "vlm": vlm}
    repaired = {"sources": ["candidates", "repaired", "before_repair"], "pairs_per_prompt": 1}
    recipe = write_recipe(tmp_path, "StableDiffusionPipeline-v", judge=judge, pair=repaired)
    outcome = run_here("run", recipe, tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    assert KEY not in outcome.stderr
    shown = [part for body in server.requests for part in body["messages"][1]["content"] if part["type"] == "image_url"]
    assert len(shown) == len(server.requests) == 2 * len(PROMPTS) * 2  # about each picture, and about its patches
    labels = pq.read_table(tmp_path / "run" / "judge" / "labels.parquet").to_pylist()
    assert {len(row["patch_scores"]) for row in labels if row["patch_scores"]} == {4}
    assert pq.read_table(tmp_path / "run" / "repair" / "repairs.parquet").num_rows
