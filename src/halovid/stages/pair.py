"""pair: rewards -> preference pairs.

    halovid pair RECIPE.yaml RUN

Reads RUN/score and, as `pair.source` says, RUN/restore; writes RUN/pair/pairs.parquet, with the margin of the clips
and of every patch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from halovid import pairing
from halovid.config import PairConfig, RunConfig
from halovid.errors import InputError
from halovid.folders import StageFolder, open_stage
from halovid.grid import pool_cells
from halovid.tables import PAIRS, REWARDS, patch_lists, patch_matrix, read_table


def run(config: RunConfig, run_dir: Path) -> None:
    """Pairs clips of the same prompt."""
    sources = {"rewards": ["score"], "restored": ["restore"], "both": ["score", "restore"]}[config.pair.source]
    with open_stage(run_dir, "pair", config.part("seed", "grid", "pair"), sources) as stage:
        if stage is None:
            return
        pairs = []
        if "score" in sources:
            pairs.append(make_pairs(read_table(run_dir / "score" / "rewards.parquet", REWARDS), config, stage))
        if "restore" in sources:
            pairs.append(read_table(run_dir / "restore" / "pairs.parquet", PAIRS))
        table = pa.concat_tables(pairs)
        stage.write("pairs.parquet", table.take(kept_pairs(len(table), config)))


def make_pairs(rewards: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """The table of pairs whose clip margin is above `min_margin`; prompts without one are listed as skipped.

    Raises:
        InputError: there is no pair at all.
    """
    reward = rewards.column("reward").to_numpy()
    patches = patch_matrix(rewards, "patch_rewards") if len(rewards) else np.empty((0, 0))
    finite = np.isfinite(reward) & np.isfinite(patches).all(1)
    if not finite.all():
        raise InputError(
            f"{int((~finite).sum())} of {len(finite)} clips have rewards that are not finite, which no pair can hold; "
            f"run `halovid score` again"
        )
    names = pc.dictionary_encode(rewards.column("prompt_id").combine_chunks())
    prompts = names.indices.to_numpy()
    chosen, rejected = _choose(prompts, reward, config.pair, config.seed)
    kept = reward[chosen] - reward[rejected] > config.pair.min_margin
    chosen, rejected = chosen[kept], rejected[kept]
    for index in np.setdiff1d(np.arange(len(names.dictionary)), prompts[chosen]):
        clips = int((prompts == index).sum())
        reason = "fewer than two scored clips" if clips < 2 else f"no margin above {config.pair.min_margin}"
        stage.skip(names.dictionary[int(index)].as_py(), reason)
    if not len(chosen):
        raise InputError(
            f"no usable pair among {len(reward)} scored clips of {len(names.dictionary)} prompts (pair.strategy "
            f"{config.pair.strategy!r}, min_margin {config.pair.min_margin}); generate more candidates or lower "
            f"pair.min_margin"
        )
    weight = pairing.rarity_weights(reward, chosen, rejected, config.pair.rarity_power)
    clip_ids = rewards.column("clip_id")
    return pa.Table.from_arrays(
        [
            rewards.column("prompt_id").take(chosen).combine_chunks(),
            clip_ids.take(chosen).combine_chunks(),
            clip_ids.take(rejected).combine_chunks(),
            pa.array((reward[chosen] - reward[rejected]).astype(np.float32)),
            patch_lists(_pool(patches[chosen] - patches[rejected], config)),
            pa.array(weight.astype(np.float32)),
        ],
        schema=PAIRS,
    )


def kept_pairs(count: int, config: RunConfig) -> np.ndarray:
    """Numbers of at most `pair.limit` of the pairs, a smaller limit's being a part of a larger one's."""
    return np.sort(np.random.default_rng([config.seed, 1]).permutation(count)[: config.pair.limit])


def _pool(margins: np.ndarray, config: RunConfig) -> np.ndarray:
    """Patch margins [pairs, patches] on the grid that pairs have.

    Raises:
        InputError: the rewards belong to another grid than the recipe's.
    """
    if margins.shape[1] != config.grid.num_patches:
        raise InputError(
            f"the rewards have {margins.shape[1]} patches, the recipe's grid {config.grid.shape} has "
            f"{config.grid.num_patches}; run `halovid score` again, or set grid back"
        )
    if config.margin_grid == config.grid:
        return margins
    cells = torch.from_numpy(margins).unflatten(1, config.grid.shape)
    return pool_cells(cells, config.margin_grid).flatten(1).numpy()


def _choose(prompts: np.ndarray, reward: np.ndarray, config: PairConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the chosen and rejected clips by the configured strategy."""
    if config.strategy == "best_worst":
        return pairing.best_worst(prompts, reward, config.pairs_per_prompt)
    if config.strategy == "all":
        return pairing.all_pairs(prompts, reward)
    return pairing.random_pairs(prompts, reward, config.pairs_per_prompt, np.random.default_rng(seed))
