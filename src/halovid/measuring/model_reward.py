"""The instrument that is the reward model of the run."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from halovid.config.run import RunConfig
from halovid.records import ClipBatch, Measure, Skip
from halovid.rewards.data import prompt_inputs
from halovid.rewards.network import RewardNetwork, load_reward
from halovid.rewards.scoring import reward_clips
from halovid.store.runtime import resolve_device

_GROUP = "Reward model (what the training follows)"


class RewardInstrument:
    """The rewards that the training follows: they rise also where nothing has become better."""

    measures: ClassVar[dict[str, Measure]] = {
        "reward_clip": Measure("reward: clip", _GROUP, "", "higher"),
        "reward_patches": Measure("reward: patches", _GROUP, "", "higher"),
    }

    def __init__(self, network: RewardNetwork) -> None:
        self._network = network

    @classmethod
    def open(cls, config: RunConfig, run_dir: Path) -> RewardInstrument:
        """The reward model in RUN/reward, on the run's device; `load_reward` tells what it raises."""
        return cls(load_reward(run_dir / "reward").to(resolve_device(config.device)))

    def measure(self, clips: ClipBatch, skip: Skip) -> dict[str, Tensor]:
        """The reward of each clip and the mean reward of its patches, [B] each."""
        device = self._network.shift.device
        prompts = prompt_inputs(self._network.backbone, clips.rows, clips.text_condition).to(device)
        whole, patches = reward_clips(self._network, clips.video.to(device), prompts, clips.grid)
        return {"reward_clip": whole.float().cpu(), "reward_patches": patches.flatten(1).mean(1).float().cpu()}
