"""Which patches are worth a question: at random first, then where the reward model is least certain.

    halovid select RECIPE.yaml RUN FILE --share 0.4

A judge that costs money need not see every patch. A pilot run asks about a random share of them (`judge.share`) and
trains a reward model; `select` has this model choose further patches, and the next run asks about both
(`judge.questions`). What was asked once is not asked again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halovid.clips.folder import ClipFolder
from halovid.config.run import RunConfig
from halovid.judges.rounds import read_rounds, write_rounds
from halovid.maths.grid import PatchGrid
from halovid.records import PromptBatch
from halovid.rewards.network import load_reward
from halovid.rewards.rewarder import NetworkRewarder, Rewarder
from halovid.store.errors import InputError
from halovid.store.manifests import check_stage
from halovid.store.runtime import batches, console, progress, resolve_device, set_threads

_VIEWS = ((), (-1,), (-2,), (-2, -1))  # a clip as it is and mirrored
_FLOOR = 1e-6  # of the uncertainty: certain patches are last, not excluded


def select_patches(config: RunConfig, run_dir: Path, share: float, target: Path) -> None:
    """Writes what a run has asked, and as a further round what to ask until `share` of all patches are asked about.

    Raises:
        InputError: the run has asked about so many already, or has no reward model.
    """
    set_threads(config.threads)
    asked = run_dir / "judge" / "questions.parquet"
    if not asked.exists():
        raise InputError(
            f"{asked} is missing: the judge was asked about all patches, or not yet. Set judge.share first"
        )
    for stage in ("generate", "judge", "reward"):
        check_stage(run_dir, stage)
    clips = ClipFolder(run_dir / "generate", config.reward_size)
    rounds = read_rounds(asked)
    known = np.zeros((len(clips.rows), config.grid.num_patches), dtype=bool)
    for row, of_clip in zip(clips.rows, known, strict=True):
        of_clip[[patch for patches in rounds.get(row["clip_id"], []) for patch in patches]] = True
    count = round(share * known.size) - int(known.sum())
    if count <= 0:
        raise InputError(f"{known.mean():.0%} of the patches are asked about already; give a --share above that")
    network = load_reward(run_dir / "reward").to(resolve_device(config.device))
    unsure = rate_uncertainty(NetworkRewarder(network, config.grid), clips, config.grid)
    unsure[known] = np.nan
    chosen = draw_patches(unsure, count, np.random.default_rng(config.seed))
    for row, of_clip in zip(clips.rows, chosen, strict=True):
        rounds.setdefault(row["clip_id"], []).append(np.flatnonzero(of_clip).tolist())
    write_rounds(target, rounds)
    console.print(f"{target}: {int(known.sum())} patches asked about before, {int(chosen.sum())} more chosen")


def rate_uncertainty(rewarder: Rewarder, clips: ClipFolder, grid: PatchGrid, batch_size: int = 32) -> np.ndarray:
    """How much the ratings of each patch differ when the clip is mirrored, [n, patches]; NaN for unreadable clips."""
    unsure = torch.full((len(clips.rows), grid.num_patches), torch.nan)
    number = {row["clip_id"]: index for index, row in enumerate(clips.rows)}
    with progress("select", len(clips.rows)) as advance:
        for batch in batches(clips.rows, batch_size):
            rows, video = clips.readable(batch, lambda *_: None)  # the judge listed the unreadable ones
            if video is not None:
                prompts = clips.prompt_batch(rows, rewarder.needs_conditioning)
                unsure[[number[row["clip_id"]] for row in rows]] = _disagreement(rewarder, video, prompts).flatten(1)
            advance(len(batch))
    return unsure.numpy()


def _disagreement(rewarder: Rewarder, video: Tensor, prompts: PromptBatch) -> Tensor:
    """The standard deviation of the patch ratings over the views, mean over the aspects: [B, t, h, w]."""
    views = []
    for axes in _VIEWS:
        ratings = rewarder.reward(video.flip(axes), prompts).ratings.values()
        views.append(torch.stack([rated.patches for rated in ratings if rated.patches is not None], 1).flip(axes))
    return torch.stack(views).std(0).mean(1)


def draw_patches(unsure: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` patches drawn in proportion to their uncertainty, without replacement: bool, shape of `unsure`.

    Those with NaN are not drawn. The most uncertain ones alone would be much alike; chance spreads them. The draw takes
    the largest log u + Gumbel noise. Source: stochastic batch acquisition, arXiv 2106.12059.
    """
    keys = np.log(np.maximum(unsure, _FLOOR)) + rng.gumbel(size=unsure.shape)
    keys[np.isnan(unsure)] = -np.inf
    count = min(count, int(np.isfinite(keys).sum()))
    chosen = np.zeros(unsure.shape, dtype=bool)
    chosen.flat[np.argsort(keys, axis=None)[keys.size - count :]] = True
    return chosen
