"""Stages reward and score with vision-language models: trained, continued after a kill, and released."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conftest import with_hashes
from halovid.clips.conditions import condition_path
from halovid.commands.score_folder import score_folder
from halovid.config.recipes import make_config
from halovid.config.run import RunConfig
from halovid.maths.grid import LatentGeometry
from halovid.records import Conditioning, PromptBatch
from halovid.rewards import training
from halovid.rewards.released import UnscoredError
from halovid.rewards.released.served import ServedReward
from halovid.rewards.rewarder import open_rewarder
from halovid.search.best_of import BestOf
from halovid.stages import STAGES, reward, score
from halovid.store import resumable, tables
from halovid.store.checkpoint import save_tensors
from halovid.store.errors import InputError
from halovid.store.files import write_json
from halovid.store.folders import open_stage
from halovid.store.video import read_video, write_video
from halovid.training.monitor import REWARD, Monitor
from tiny_models import write_language_model, write_videoreward

SIZE = (9, 16, 24)
TEXT = Conditioning({"prompt_embeds": torch.zeros(1, 4, 5)})
SERVER = {"family": "videoscore2", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
BASE: dict[str, Any] = {
    "device": "cpu",
    "threads": 1,
    "generator": {"num_frames": 9, "height": 16, "width": 24},
    "grid": {"t": 3, "h": 1, "w": 2},
    "reward": {"video_steps": 2, "patch_steps": 3, "batch_size": 2, "crops": 1, "learning_rate": 1e-3},
    "score": {"batch_size": 2},
}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose stages generate and judge are complete: 3 prompts with 2 clips each, random labels."""
    run = tmp_path / "run"
    generator = torch.Generator().manual_seed(0)
    rows, labels = [], []
    with open_stage(run, "generate", {}) as stage:
        assert stage is not None
        for index in range(6):
            name = f"p{index // 2}"
            row = {"clip_id": f"{name}-{index % 2}", "prompt_id": name, "prompt": f"prompt {index // 2}", "seed": index}
            row |= {"video": f"clips/{index}.mp4", "latents": "", "fps": 8.0}
            write_video(stage.path / row["video"], torch.rand(3, *SIZE, generator=generator) * 2 - 1, 8.0)
            Conditioning({"prompt_embeds": torch.randn(1, 4, 5)}).save(condition_path(stage.path, name))
            rows.append(with_hashes(stage.path, row))
            save_tensors(stage.path / "prompts" / f"{name}.safetensors", {"prompt_embeds": torch.randn(4, 5)})
            for aspect in RunConfig().reward.aspects:
                patches = (torch.rand(6, generator=generator) * 4 + 1).tolist()
                labels.append(
                    {"clip_id": row["clip_id"], "aspect": aspect, "score": 1.0 + index % 5, "judge": "random"}
                    | {"patch_scores": patches}
                )
        write_json(
            stage.path / "geometry.json", {"temporal_stride": 4, "spatial_stride": 8, "causal_first_frame": True}
        )
        stage.write("clips.parquet", tables.rows_to_table(rows, tables.CLIPS))
    with open_stage(run, "judge", {}, ["generate"]) as stage:
        assert stage is not None
        stage.write("labels.parquet", tables.rows_to_table(labels, tables.LABELS))
    return run


def settings(**sections: dict[str, Any]) -> RunConfig:
    """The base recipe with some settings of its sections changed."""
    changed = {name: BASE[name] | changes for name, changes in sections.items()}
    return make_config(BASE | changed)


def rewards(run_dir: Path) -> pa.Table:
    return tables.read_table(run_dir / "score" / "generate" / "rewards.parquet", tables.REWARDS)


@pytest.mark.parametrize("kind", ["qwen3_vl", "smolvlm", "idefics2"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_language_model_is_trained_and_scores(kind: str, method: str, run_dir: Path, tmp_path: Path) -> None:
    folder = write_language_model(kind, tmp_path / kind)
    backbone = {"qwen3_vl": "qwen_vl"}.get(kind, kind)
    config = settings(reward={"backbone": backbone, "model": str(folder), "method": method, "frames": 4})
    reward.run(config, run_dir)
    score.run(config, run_dir)
    table = rewards(run_dir)
    assert len(table) == 6 and tables.patch_matrix(table, "patch_rewards").shape == (6, 6)
    assert len(set(table.column("reward").to_pylist())) == 6


def test_a_model_that_reads_text_scores_any_folder_and_watches_a_training(run_dir: Path, tmp_path: Path) -> None:
    write_language_model("smolvlm", tmp_path / "model")
    config = make_config(BASE | {"reward": BASE["reward"] | {"backbone": "smolvlm", "model": str(tmp_path / "model")}})
    reward.run(config, run_dir)
    score.run(config, run_dir)
    clips = run_dir / "generate" / "clips"
    (tmp_path / "clips").mkdir()
    shutil.copy(clips / "0.mp4", tmp_path / "clips" / "prompt 0-0.mp4")
    score_folder(tmp_path / "clips", run_dir / "reward", tmp_path / "scores.parquet", config)
    found = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    known = tables.read_table(run_dir / "score" / "generate" / "rewards.parquet", tables.REWARDS).to_pylist()[0]
    assert found[0]["reward"] == pytest.approx(known["reward"], abs=1e-4)
    assert found[0]["patch_rewards"] == pytest.approx(known["patch_rewards"], abs=1e-4)
    rows = [{"prompt_id": "p0", "prompt": "prompt 0", "seed": 1}]
    monitor = Monitor(tmp_path, open_rewarder(config, run_dir), rows, TEXT, config, instruments=[])
    reading = monitor.observe(OneClip(read_video(clips / "0.mp4", SIZE[1:], SIZE[0])), 1)
    assert reading.values[REWARD] == pytest.approx([known["reward"]], abs=1e-4)


class OneClip:
    """A sampler whose samples are one and the same clip."""

    geometry = LatentGeometry(4, 8, causal_first_frame=True)

    def __init__(self, video: torch.Tensor) -> None:
        self._video = video

    def sample(self, conditioning: Conditioning, seeds: list[int]) -> torch.Tensor:
        return torch.zeros(len(seeds), 1)

    def decode_video(self, latents: torch.Tensor) -> torch.Tensor:
        return self._video.expand(len(latents), -1, -1, -1, -1)


def test_preferences_train_it_too_and_a_killed_training_continues(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: Callable[[], Path]
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 1)
    folder = write_language_model("qwen2_5_vl", tmp_path / "model")
    changes = {"backbone": "qwen_vl", "model": str(folder), "method": "lora", "frames": 4, "loss": "bradley_terry"}
    config = settings(reward=changes | {"gradient_checkpointing": True})
    whole = copy()
    reward.run(config, whole)
    save, left = resumable.save_checkpoint, [3]

    def dying(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(resumable, "save_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            reward.run(config, run_dir)
    reward.run(config, run_dir)
    one, other = ((run / "reward" / "reward.safetensors").read_bytes() for run in (whole, run_dir))
    assert one == other


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Callable[[], Path]:
    return lambda: shutil.copytree(run_dir, tmp_path / "copy")


def test_a_training_goes_on_from_a_released_model(run_dir: Path, tmp_path: Path) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "pair", 3)
    config = settings(reward={"backbone": "qwen_vl", "model": str(folder), "method": "lora", "frames": 4})
    reward.run(config, run_dir)
    score.run(config, run_dir)
    assert len(rewards(run_dir)) == 6


def test_a_released_model_scores_without_a_training_and_tells_what_it_saw(run_dir: Path, tmp_path: Path) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    config = settings(score={"released": str(folder)})
    score.run(config, run_dir)
    table = tables.read_table(run_dir / "score" / "generate" / "released.parquet", tables.RELEASED).to_pylist()
    assert rewards(run_dir).column("reward").to_pylist() == [row["reward"] for row in table]
    for row in table:
        assert row["names"] == ["VQ", "MQ", "TA"]
        assert sum(row["scores"]) == pytest.approx(row["reward"], abs=1e-4)
        assert row["frames"] == [0, 3, 5, 8] and row["fps"] == 8 and row["model"] == str(folder)
        assert "2 frames a second" in row["policy"]
        assert len(row["patch_rewards"]) == 6 and len(set(row["patch_rewards"])) == 6


def test_a_server_scores_and_the_clips_that_it_does_not_score_are_listed(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate(self: ServedReward, frames: torch.Tensor, prompt: str) -> torch.Tensor:
        if prompt == "prompt 1":
            raise UnscoredError("no answer", again=True)
        return torch.tensor([2.0, 3.0, 4.0])

    monkeypatch.setattr(ServedReward, "rate", rate)
    score.run(settings(score={"server": SERVER}), run_dir)
    assert rewards(run_dir).column("reward").to_pylist() == [3.0] * 4
    skipped = json.loads((run_dir / "score" / "manifest.json").read_text())["skipped"]
    assert skipped == [{"item": f"p1-{i}", "reason": "no answer", "again": True} for i in (0, 1)]


def test_changed_weights_score_anew(run_dir: Path, tmp_path: Path) -> None:
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    config = settings(score={"released": str(folder)})
    score.run(config, run_dir)
    before = rewards(run_dir)
    (folder / "prompt.txt").write_text("{prompt}? <|VQ_reward|> <|MQ_reward|> <|TA_reward|>")
    score.run(config, run_dir)
    assert not rewards(run_dir).equals(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "qwen_vl"}, "backbone qwen_vl has pretrained weights"),
        ({"method": "lora"}, "method lora adapts pretrained weights"),
        ({"loss": "bradley_terry", "batch_size": 1}, "batch_size must be at least 2"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_config({"reward": changes})


def test_half_precision_floats_are_refused_for_language_models(run_dir: Path, tmp_path: Path) -> None:
    folder = write_language_model("smolvlm", tmp_path / "model")
    config = settings(reward={"backbone": "smolvlm", "model": str(folder)}).model_copy(update={"dtype": "float16"})
    with pytest.raises(InputError, match="dtype is float16"):
        reward.run(config, run_dir)


def test_best_of_works_with_a_model_that_reads_text(run_dir: Path, tmp_path: Path) -> None:
    folder = write_language_model("smolvlm", tmp_path / "model")
    config = settings(reward={"backbone": "smolvlm", "model": str(folder)})
    reward.run(config, run_dir)
    rewarder = open_rewarder(config, run_dir)
    assert not rewarder.needs_conditioning
    video = read_video(run_dir / "generate" / "clips" / "0.mp4", SIZE[1:], SIZE[0])
    draw = BestOf(OneClip(video), rewarder, 2, "patch")
    assert draw(PromptBatch(("prompt 0",), TEXT, (8.0,), OneClip.geometry), [1]).shape == (1, 1)


@pytest.mark.parametrize("score", [{"released": "some/model"}, {"server": SERVER}])
def test_with_a_released_or_served_model_nothing_reads_the_run_s_own(score: dict[str, Any]) -> None:
    config = make_config({"score": score, "evaluate": {"instruments": ["reward"], "best_of": 2}})
    assert not any("reward" in stage.reads(config) for stage in STAGES.values())
    assert config.scored_size == config.clip_size and config.has_rewarder
