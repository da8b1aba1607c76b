"""Every stage, through the command line, with pipelines of several families: only the model's folder differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import LORA, manifest, run_here
from halovid.config.recipes import load_config
from halovid.config.reward import RewardConfig
from halovid.measuring.plain import PlainInstrument
from halovid.models import base, open_model
from halovid.models.loading import load_pipeline
from halovid.stages import required_stages
from halovid.store.tables import LABELS, rows_to_table, write_table
from tiny_pipelines import TINY, chosen

pytestmark = pytest.mark.e2e
GRID = {"t": 2, "h": 2, "w": 2}
PROMPTS = ("a red circle moves left", "a blue square rises", "a green triangle stays")
RECIPE: dict[str, Any] = {
    "seed": 3,
    "device": "cpu",
    "threads": 1,
    "grid": GRID,
    "generate": {"prompts": {"file": "prompts.txt"}, "candidates": 2},
    "judge": {"judge": "table", "labels": "labels.parquet"},
    "reward": {"width": 16, "layers": 1, "heads": 2, "patch_size": 8, "video_steps": 2, "patch_steps": 2},
    "restore": {"source": "candidates", "per_prompt": 1, "most_regions": 1, "sigma": 1.0, "steps": 3},
    "pair": {"sources": ["candidates", "twins", "restored"], "pairs_per_prompt": 1},
    "align": {"lora": {"rank": 2, "alpha": 2}, "steps": 3, "batch_size": 2, "learning_rate": 0.05, "warmup": 0}
    | {"ema": 0.0, "sample_prompts": 1},
    "evaluate": {"prompts": {"file": "prompts.txt"}, "samples": 1, "num_resamples": 100, "instruments": ["plain"]},
    "report": {"clips": 1},
}


def write_labels(path: Path) -> None:
    """Labels of the candidates, known ahead by their names: the later the better, and the first patch worst."""
    rows = []
    for index in range(len(PROMPTS) * 2):
        clip_id = f"p{index // 2:05d}-{index % 2:02d}"
        patches = [1.0, *[1.0 + index % 4] * (GRID["t"] * GRID["h"] * GRID["w"] - 1)]
        for aspect in RewardConfig().aspects:
            of_patches = patches if aspect in RewardConfig().patch_aspects else None
            rows.append({"clip_id": clip_id, "aspect": aspect, "score": 1.0 + index % 4, "patch_scores": of_patches})
    write_table(path, rows_to_table([row | {"judge": "a person"} for row in rows], LABELS))


# families that differ in what stages see of them: noise, conditions, guidance, sizes. The packaged world is another,
# pictures have a file of their own, and tests/unit/models holds every family against its plain pipeline.
WHOLE_RUNS = (
    *("CogVideoXPipeline", "HunyuanVideo15Pipeline", "HunyuanVideoPipeline", "LattePipeline", "MochiPipeline"),
    *("TextToVideoSDPipeline", "WanPipeline-TI2V"),
)
OPENED: dict[Path, list[set[str]]] = {}  # run folder -> the components that were loaded, each time that a model was


@pytest.fixture(scope="module", params=chosen(WHOLE_RUNS))
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Recipe and run folder after `halovid run`."""
    folder = tmp_path_factory.mktemp(request.param)
    TINY[request.param].build().save_pretrained(folder / "pipeline")
    frames, height, width = TINY[request.param].size
    generator = {"model": str(folder / "pipeline"), "num_frames": frames, "height": height, "width": width}
    generator |= {"num_inference_steps": 2, "guidance_scale": 2.0, "negative_prompt": "a plain circle"}
    generator |= TINY[request.param].settings
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"generator": generator}), encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    write_labels(folder / "labels.parquet")
    opened = OPENED[folder / "run"] = []

    def load(path: Path, index: dict[str, Any], names: Any, *rest: Any, **named: Any) -> Any:
        opened.append(set(names))
        return load_pipeline(path, index, names, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "load_pipeline", load)
        outcome = run_here("run", recipe, folder / "run")
    assert outcome.code == 0, outcome.stderr
    return recipe, folder / "run"


def test_all_stages_are_complete_and_nothing_was_skipped(finished: tuple[Path, Path]) -> None:
    stages = required_stages(load_config(finished[0]))
    assert {"restore", "align", "evaluate", "report"} <= set(stages)
    skipped = [entry for name in stages for entry in manifest(finished[1], name)["skipped"]]
    assert all("no pair with a margin" in entry["reason"] for entry in skipped), "random rewards may tie, no more"


def test_text_encoders_are_open_while_prompts_are_encoded_and_never_else(finished: tuple[Path, Path]) -> None:
    opened = OPENED[finished[1]]
    reading = [names for names in opened if "text_encoder" in names]
    assert len(reading) == 2  # in generate and in baseline
    for names in reading:
        assert not names & {"transformer", "unet", "vae"}
    assert len(opened) == 2 + 5  # generate, restore, align, baseline, evaluate


def test_clips_are_restored_outside_their_regions(finished: tuple[Path, Path]) -> None:
    """The rest of each clip is what it was, to the last step: the scheme of noise levels reaches the clip itself."""
    run_dir = finished[1]
    pairs = [row for row in pq.read_table(run_dir / "pair" / "pairs.parquet").to_pylist() if "restore" in row.values()]
    assert pairs
    for pair in pairs:
        original, remade = (
            load_file(run_dir / pair[f"{side}_folder"] / "latents" / f"{pair[side]}.safetensors")["latents"]
            for side in ("chosen", "rejected")
        )
        gap = (original - remade).abs().amax(0)
        assert gap.max() > 1e-2 and (gap < 1e-5).any()


def test_the_training_moved_the_model_and_stayed_finite(finished: tuple[Path, Path]) -> None:
    weights = load_file(finished[1] / "align" / "weights" / LORA)
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)
    lines = (finished[1] / "align" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert all(torch.isfinite(torch.tensor(json.loads(line)["loss/total"])) for line in lines)


def test_base_and_aligned_clips_differ_and_are_compared(finished: tuple[Path, Path]) -> None:
    clips = [sorted((finished[1] / stage / "latents").iterdir()) for stage in ("baseline", "evaluate")]
    assert [path.name for path in clips[0]] == [path.name for path in clips[1]]
    for before, aligned in zip(*clips, strict=True):
        assert not torch.allclose(load_file(before)["latents"], load_file(aligned)["latents"], atol=1e-3)
    measures = {row["measure"] for row in pq.read_table(finished[1] / "evaluate" / "metrics.parquet").to_pylist()}
    assert measures == (PlainInstrument.measures.keys() if load_config(finished[0]).generator.num_frames > 1 else set())


def test_the_merged_pipeline_is_one_of_the_same_family(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, run_dir = finished
    outcome = run_here("merge", recipe, run_dir, tmp_path / "merged")
    assert outcome.code == 0, outcome.stderr
    config = load_config(recipe, (f"generator.model={tmp_path / 'merged'}",))
    model = open_model(config, {"denoiser", "autoencoder", "text"})
    texts = model.encode_prompts([PROMPTS[0]])
    [base] = pq.read_table(run_dir / "evaluate" / "clips.parquet").to_pylist()[:1]
    latents = load_file(run_dir / "evaluate" / base["latents"])["latents"]
    torch.testing.assert_close(model.sample(texts, [base["seed"]])[0], latents, rtol=1e-3, atol=1e-3)
