"""The instrument that measures with the run's own rewarder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from halovid.config.run import RunConfig
from halovid.records import ClipBatch, Measure, PromptBatch
from halovid.rewards.rewarder import Rewarder, open_rewarder
from halovid.store.work import Skip

_GROUP = "Reward model (what the training follows)"


class RewardInstrument:
    """The rewards that the training optimises, and that can therefore rise without better clips."""

    measures: ClassVar[dict[str, Measure]] = {
        "reward_clip": Measure("reward: clip", _GROUP, "", "higher"),
        "reward_patches": Measure("reward: patches", _GROUP, "", "higher"),
    }

    def __init__(self, rewarder: Rewarder) -> None:
        self._rewarder = rewarder

    @classmethod
    def open(cls, config: RunConfig, run_dir: Path) -> RewardInstrument:
        """The instrument with the recipe's rewarder; raises what `open_rewarder` raises."""
        return cls(open_rewarder(config, run_dir))

    def measure(self, clips: ClipBatch, skip: Skip) -> dict[str, Tensor]:
        """The reward of each clip and the mean reward of its patches, [B] each; NaN for clips that are refused."""
        condition = clips.conditioning if self._rewarder.needs_conditioning else None
        rewards = self._rewarder.reward(clips.video, PromptBatch.of_rows(clips.rows, clips.geometry, condition))
        for row, refusal in zip(clips.rows, rewards.refusals, strict=True):
            if refusal is not None:
                skip(row["clip_id"], f"not rewarded: {refusal.reason}", refusal.again)
        return {"reward_clip": rewards.clip, "reward_patches": rewards.patch_means}
