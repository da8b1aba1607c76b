"""Chooses the patches that a judge should be asked about next: those that the reward model is least certain of.

    halovid select RECIPE.yaml RUN FILE --share 0.4

A judge that costs money need not rate every patch. A pilot run asks about a random share of them (`judge.share`) and
trains a reward model; `select` lets this model choose further patches, and the next run asks about both
(`judge.questions`). Answers that the pilot run has paid for are not asked for again.
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

_MIRRORED_AXES = ((), (-1,), (-2,), (-2, -1))  # the clip as it is, mirrored sideways, upside down, and both
_MIN_UNCERTAINTY = 1e-6  # above 0, so that patches without any are drawn last instead of never


def select_patches(config: RunConfig, run_dir: Path, share: float, target: Path) -> None:
    """Writes the run's questions plus one more round, after which `share` of all patches will have been asked about.

    Raises:
        InputError: the run has asked about all patches or that many already, or has no reward model.
    """
    set_threads(config.threads)
    questions = run_dir / "judge" / "questions.parquet"
    if not questions.exists():
        raise InputError(
            f"{questions} is missing: the judge was asked about all patches, or not yet. Set judge.share first"
        )
    for stage in ("generate", "judge", "reward"):
        check_stage(run_dir, stage)
    clips = ClipFolder(run_dir / "generate", config.reward_size)
    rounds = read_rounds(questions)
    asked = np.zeros((len(clips.rows), config.grid.num_patches), dtype=bool)
    for row, in_clip in zip(clips.rows, asked, strict=True):
        in_clip[[patch for patches in rounds.get(row["clip_id"], []) for patch in patches]] = True
    count = round(share * asked.size) - int(asked.sum())
    if count <= 0:
        raise InputError(f"{asked.mean():.0%} of the patches are asked about already; give a --share above that")
    network = load_reward(run_dir / "reward").to(resolve_device(config.device))
    uncertainty = rate_uncertainty(NetworkRewarder(network, config.grid), clips, config.grid)
    uncertainty[asked] = np.nan
    chosen = draw_patches(uncertainty, count, np.random.default_rng(config.seed))
    for row, in_clip in zip(clips.rows, chosen, strict=True):
        rounds.setdefault(row["clip_id"], []).append(np.flatnonzero(in_clip).tolist())
    write_rounds(target, rounds)
    console.print(f"{target}: {int(asked.sum())} patches asked about before, {int(chosen.sum())} more chosen")


def rate_uncertainty(rewarder: Rewarder, clips: ClipFolder, grid: PatchGrid, batch_size: int = 32) -> np.ndarray:
    """How much the ratings of each patch differ when the clip is mirrored, [n, patches]; NaN for unreadable clips."""
    uncertainty = torch.full((len(clips.rows), grid.num_patches), torch.nan)
    index_of = {row["clip_id"]: index for index, row in enumerate(clips.rows)}
    with progress("select", len(clips.rows)) as advance:
        for batch in batches(clips.rows, batch_size):
            rows, video = clips.readable(batch, lambda *_: None)  # unreadable clips are in the manifest of `judge`
            if video is not None:
                prompts = clips.prompt_batch(rows, rewarder.needs_conditioning)
                indices = [index_of[row["clip_id"]] for row in rows]
                uncertainty[indices] = _disagreement(rewarder, video, prompts).flatten(1)
            advance(len(batch))
    return uncertainty.numpy()


def _disagreement(rewarder: Rewarder, video: Tensor, prompts: PromptBatch) -> Tensor:
    """The standard deviation of the patch ratings over the views, mean over the aspects: [B, t, h, w]."""
    views = []
    for axes in _MIRRORED_AXES:
        ratings = rewarder.reward(video.flip(axes), prompts).ratings.values()
        views.append(torch.stack([rated.patches for rated in ratings if rated.patches is not None], 1).flip(axes))
    return torch.stack(views).std(0).mean(1)


def draw_patches(uncertainty: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` patches drawn in proportion to their uncertainty, without replacement: bool, shape of `uncertainty`.

    Patches whose uncertainty is NaN are not drawn. The most uncertain patches are much alike; drawing at random spreads
    the choice. The draw takes the largest values of log(uncertainty) + Gumbel noise.
    Source: stochastic batch acquisition, arXiv 2106.12059.
    """
    keys = np.log(np.maximum(uncertainty, _MIN_UNCERTAINTY)) + rng.gumbel(size=uncertainty.shape)
    keys[np.isnan(uncertainty)] = -np.inf
    count = min(count, int(np.isfinite(keys).sum()))
    chosen = np.zeros(uncertainty.shape, dtype=bool)
    chosen.flat[np.argsort(keys, axis=None)[keys.size - count :]] = True
    return chosen
