"""When the trained reward and the independent measures part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from halovid.config.recipes import make_config
from halovid.maths.grid import LatentGeometry
from halovid.measuring.instruments import MEASURES, open_instruments
from halovid.records import Conditioning, PromptBatch, Refusal, Rewards
from halovid.rewards.network import RewardNetwork, RewardSpec
from halovid.rewards.rewarder import NetworkRewarder
from halovid.training.monitor import PATCH_REWARD, REWARD, Monitor, Reading, hacking_warnings, monitor_instruments
from tiny_models import encoder_spec

NUM_CLIPS = 12
LOWER, HIGHER, SAME = "flow_warp_error", "adjacent_frame_ssim", "flow_magnitude"


def reading(step: int, **changes: float) -> Reading:
    """A reading of values around 1, with noise that all steps share; `changes` are added to the measures they name."""
    noise = np.random.default_rng(0).normal(size=NUM_CLIPS)
    noise_of_step = np.random.default_rng(step + 1).normal(size=NUM_CLIPS)
    values = {name: 1 + 0.3 * noise + 0.02 * noise_of_step for name in (REWARD, PATCH_REWARD, LOWER, HIGHER, SAME)}
    names = {"reward": REWARD, "lower": LOWER, "higher": HIGHER, "same": SAME}
    for name, change in changes.items():
        values[names[name]] = values[names[name]] + change
    return Reading(step, values)


def test_a_reward_that_rises_with_all_else_is_no_reason_to_warn() -> None:
    assert hacking_warnings(reading(0), reading(5, reward=0.5, lower=-0.2, higher=0.2, same=0.1)) == []


@pytest.mark.parametrize(
    ("change", "name"), [({"lower": 0.1}, LOWER), ({"higher": -0.1}, HIGHER), ({"same": -0.5}, SAME)]
)
def test_a_measure_that_gets_worse_while_the_reward_rises_is_named(change: dict[str, float], name: str) -> None:
    [sentence] = hacking_warnings(reading(0), reading(70, reward=0.5, **change))
    assert (
        sentence.startswith("step 70: the reward rose from ") and f"but {MEASURES[name].title} went from " in sentence
    )


def test_without_a_higher_reward_nothing_is_said() -> None:
    assert hacking_warnings(reading(0), reading(5, lower=0.5, higher=-0.5, same=-0.9)) == []
    assert hacking_warnings(reading(0), reading(5, reward=-0.5, lower=0.5)) == []


def test_a_change_within_the_noise_or_a_little_less_motion_is_no_reason_to_warn() -> None:
    assert hacking_warnings(reading(0), reading(5, reward=0.5, lower=0.002, same=-0.1)) == []


def test_a_measure_that_no_clip_has_says_nothing_and_one_that_some_have_is_compared_on_those() -> None:
    base, now = reading(0), reading(5, reward=0.5, lower=0.5, higher=-0.5)
    now.values[LOWER][:] = np.nan
    now.values[HIGHER][0] = base.values[HIGHER][1] = np.nan
    [sentence] = hacking_warnings(base, now)
    assert MEASURES[HIGHER].title in sentence


def test_fewer_than_four_clips_say_nothing() -> None:
    first, second = (
        Reading(r.step, {k: v[:3] for k, v in r.values.items()}) for r in (reading(0), reading(5, reward=1, lower=1))
    )
    assert hacking_warnings(first, second) == []


class FlatSampler:
    """Clips of one grey value, that of the first latent."""

    geometry = LatentGeometry(4, 8, causal_first_frame=True)

    def __init__(self) -> None:
        self.sampled: list[int] = []

    def sample(self, conditioning: Conditioning, seeds: list[int]) -> Tensor:
        self.sampled.append(len(seeds))
        return torch.tensor(seeds, dtype=torch.float32)[:, None] / 10

    def decode_video(self, latents: Tensor) -> Tensor:
        return latents[:, :, None, None, None].expand(-1, 3, 13, 64, 64)


def make_monitor(folder: Path, num_clips: int, batch_size: int) -> Monitor:
    torch.manual_seed(0)
    backbone = encoder_spec(patch_size=8, num_frames=13, frame_height=32, frame_width=32, prompt_width=4)
    aspects = ("visual_quality",)
    network = RewardNetwork(RewardSpec(backbone=backbone, aspects=aspects, patch_aspects=aspects))
    clips = [{"prompt_id": f"p{i}", "prompt": "a", "seed": 1 + 3 * i} for i in range(num_clips)]
    config = make_config({"generator": {"batch_size": batch_size}})
    instruments = open_instruments(monitor_instruments(config), config, folder)
    return Monitor(
        folder,
        NetworkRewarder(network.eval(), config.grid),
        clips,
        Conditioning({"prompt_embeds": torch.randn(num_clips, 3, 4)}),
        config,
        instruments,
    )


def test_the_monitor_keeps_the_clips_and_measures_each(tmp_path: Path) -> None:
    found = make_monitor(tmp_path, 2, 16).observe(FlatSampler(), 30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p0-step000030.mp4", "p1-step000030.mp4"]
    assert {REWARD, PATCH_REWARD, LOWER, "critic_defect_probability"} <= found.values.keys()
    assert not any("sprite" in name or "alignment" in name for name in found.values), "the truth is not for training"
    assert all(value.shape == (2,) for value in found.values.values())
    assert found.values[HIGHER] == pytest.approx([1, 1])
    assert found.means()["monitor/reward"] == pytest.approx(found.values[REWARD].mean())


def test_no_more_clips_are_sampled_at_once_than_the_generator_may(tmp_path: Path) -> None:
    few, all_at_once = FlatSampler(), FlatSampler()
    first = make_monitor(tmp_path, 5, 2).observe(few, 1)
    second = make_monitor(tmp_path, 5, 16).observe(all_at_once, 1)
    assert (few.sampled, all_at_once.sampled) == ([2, 2, 1], [5])
    assert first.values.keys() == second.values.keys()
    for name, values in first.values.items():
        assert values == pytest.approx(second.values[name], rel=1e-4, abs=1e-5), name


class Moody:
    """A rewarder that refuses clips whose prompt is "no", and rewards others by their brightness."""

    needs_conditioning = False

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        refusals = tuple(Refusal("because") if text == "no" else None for text in prompts.texts)
        clip = video.mean((1, 2, 3, 4)).cpu()
        clip[[refusal is not None for refusal in refusals]] = torch.nan
        return Rewards(clip, clip[:, None, None, None].expand(-1, 1, 1, 1), refusals)


def test_a_refused_clip_stops_no_training_and_counts_nowhere(tmp_path: Path) -> None:
    clips = [{"prompt_id": str(i), "prompt": "no" if i == 1 else "yes", "seed": i} for i in range(5)]
    config = make_config({})
    instruments = open_instruments(["plain"], config, tmp_path)
    conditioning = Conditioning({"prompt_embeds": torch.randn(5, 3, 4)})
    monitor = Monitor(tmp_path, Moody(), clips, conditioning, config, instruments)
    base, now = monitor.observe(FlatSampler(), 0), monitor.observe(FlatSampler(), 1)
    assert np.isnan(now.values[REWARD]).tolist() == [False, True, False, False, False]
    assert now.means()["monitor/reward"] == pytest.approx((0 + 2 + 3 + 4) / 40)
    now.values[REWARD] += 1
    now.values[LOWER] += 1
    assert len(hacking_warnings(base, now)) == 1
    nothing = Reading(1, {REWARD: np.full(5, np.nan)})
    assert nothing.means() == {} and hacking_warnings(base, nothing) == []
