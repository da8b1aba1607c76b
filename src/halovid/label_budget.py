"""Which patches are worth a question: at random first, then where the reward model is least certain.

    halovid select RECIPE.yaml RUN FILE --share 0.4

A judge that costs money need not see every patch. A pilot run asks about a random share of them (`judge.share`) and
trains a reward model; `select` has this model choose further patches, and the next run asks about both
(`judge.questions`). What was asked once is not asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halovid.config.run import RunConfig
from halovid.data.clips import ClipFolder, Row, clip_seed
from halovid.data.tables import QUESTIONS, read_table, rows_to_table, write_table
from halovid.errors import InputError
from halovid.grid import PatchGrid
from halovid.judges.base import Rounds
from halovid.rewards.data import prompt_inputs
from halovid.rewards.network import RewardNetwork, load_reward
from halovid.rewards.scoring import score_dense
from halovid.runtime import batches, console, progress, resolve_device, set_threads

_VIEWS = ((), (-1,), (-2,), (-2, -1))  # a clip as it is and mirrored
_FLOOR = 1e-6  # of the uncertainty: certain patches are last, not excluded


def planned_rounds(config: RunConfig, rows: Sequence[Row]) -> dict[str, Rounds] | None:
    """The patches of each clip that the judge is asked about, by clip id; None when it is asked about all.

    Raises:
        InputError: `judge.questions` can't be read, or names clips that the run or patches that the grid has not.
    """
    judge, size = config.judge, config.grid.num_patches
    if judge.questions is not None:
        found = read_rounds(judge.questions)
        if any(not 0 <= place < size for rounds in found.values() for own in rounds for place in own):
            raise InputError(f"{judge.questions} asks about patches that the grid {config.grid.shape} has not")
        others = found.keys() - {row["clip_id"] for row in rows}
        if others:
            raise InputError(
                f"{judge.questions} asks about clips that the run has not, {min(others)!r} among {len(others)}; "
                f"make the file with `halovid select` from this run"
            )
        return {row["clip_id"]: found.get(row["clip_id"], []) for row in rows}
    if judge.share == 1:
        return None
    count = max(1, round(judge.share * size))
    orders = {row["clip_id"]: np.random.default_rng(clip_seed(config.seed, row["clip_id"], -1)) for row in rows}
    return {name: [sorted(rng.permutation(size)[:count].tolist())] for name, rng in orders.items()}


def read_rounds(path: Path) -> dict[str, Rounds]:
    """The rounds of each clip in a table of questions.

    Raises:
        InputError: the file can't be read, something is missing in a row, or a clip has a patch twice.
    """
    rows = read_table(path, QUESTIONS).to_pylist()
    for number, row in enumerate(rows, start=1):
        if None in (*row.values(), *(row["patches"] or ())):
            raise InputError(f"{path}, row {number}: clip_id, round and all patches must be given, none may be null")
    found: dict[str, Rounds] = {}
    for row in sorted(rows, key=lambda row: row["round"]):
        found.setdefault(row["clip_id"], []).append(row["patches"])
    for name, rounds in found.items():
        counts = Counter(place for own in rounds for place in own)
        twice = [place for place, count in counts.items() if count > 1]
        if twice:
            raise InputError(f"{path} asks more than once about patch {min(twice)} of clip {name!r}; name it once")
    return found


def write_rounds(path: Path, rounds: dict[str, Rounds]) -> None:
    """Writes a table of questions."""
    rows = [
        {"clip_id": name, "round": number, "patches": patches}
        for name, own in rounds.items()
        for number, patches in enumerate(own)
    ]
    write_table(path, rows_to_table(rows, QUESTIONS))


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
    clips = ClipFolder(run_dir / "generate", config.reward_size)
    rounds = read_rounds(asked)
    known = np.zeros((len(clips.rows), config.grid.num_patches), dtype=bool)
    for row, own in zip(clips.rows, known, strict=True):
        own[[place for places in rounds.get(row["clip_id"], []) for place in places]] = True
    count = round(share * known.size) - int(known.sum())
    if count <= 0:
        raise InputError(f"{known.mean():.0%} of the patches are asked about already; give a --share above that")
    unsure = rate_uncertainty(load_reward(run_dir / "reward").to(resolve_device(config.device)), clips, config.grid)
    unsure[known] = np.nan
    chosen = draw_patches(unsure, count, np.random.default_rng(config.seed))
    for row, own in zip(clips.rows, chosen, strict=True):
        rounds.setdefault(row["clip_id"], []).append(np.flatnonzero(own).tolist())
    write_rounds(target, rounds)
    console.print(f"{target}: {int(known.sum())} patches asked about before, {int(chosen.sum())} more chosen")


@torch.no_grad()
def rate_uncertainty(network: RewardNetwork, clips: ClipFolder, grid: PatchGrid, batch_size: int = 32) -> np.ndarray:
    """How much the ratings of each patch differ when the clip is mirrored, [n, patches]; NaN for unreadable clips."""
    device = network.shift.device
    unsure = torch.full((len(clips.rows), grid.num_patches), torch.nan)
    places = {row["clip_id"]: place for place, row in enumerate(clips.rows)}
    with progress("select", len(clips.rows)) as advance:
        for batch in batches(clips.rows, batch_size):
            rows, video = clips.readable(batch, lambda *_: None)  # the judge listed the unreadable ones
            if video is not None:
                prompts = prompt_inputs(network.backbone, rows, clips.prompt_embeds).to(device)
                found = _disagreement(network, video.to(device), prompts, grid)
                unsure[[places[row["clip_id"]] for row in rows]] = found.flatten(1).cpu()
            advance(len(batch))
    return unsure.numpy()


def _disagreement(network: RewardNetwork, video: Tensor, prompts: Tensor, grid: PatchGrid) -> Tensor:
    """The standard deviation of the patch ratings over the views, mean over the aspects: [B, t, h, w]."""
    views = [score_dense(network, video.flip(axes), prompts, grid)[1].flip(axes) for axes in _VIEWS]
    return torch.stack(views).float().std(0).mean(1)


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
