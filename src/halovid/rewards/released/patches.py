"""Patch rewards of released models: each patch is scored as a clip of its own, the paper's way."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halovid.clips.folder import Row
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.rewards.released.base import ReleasedReward
from halovid.rewards.scoring import crop_patches
from halovid.store.runtime import one_thread


def score_clip(
    reward: ReleasedReward, video: Tensor, row: Row, grid: PatchGrid, geometry: LatentGeometry
) -> dict[str, Any]:
    """The row of tables.RELEASED of a clip [3, F, H, W], row `row` of the clip table, from P + 1 passes.

    Rewards are the model's overall scores, of the clip and of each of its patches.
    """
    whole = reward.score(video, row["fps"], row["prompt"])
    with one_thread():  # several enlarge by other sums: not the pictures that a server has answered about already
        crops = crop_patches(video, grid, geometry)
    return {
        "clip_id": row["clip_id"],
        "prompt_id": row["prompt_id"],
        "reward": whole.overall,
        "patch_rewards": [reward.score(crop, row["fps"], row["prompt"]).overall for crop in crops],
        "names": list(whole.scores),
        "scores": list(whole.scores.values()),
        "frames": list(whole.frames),
        "fps": whole.fps,
        "policy": whole.policy,
        "model": whole.model,
    }
