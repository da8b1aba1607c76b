"""pair: rewards -> preference pairs.

    halovid pair RECIPE.yaml RUN

Reads RUN/score, RUN/restore or a file of preferences, as `pair.sources` says; writes RUN/pair/pairs.parquet: folders
and names of the two clips, the margin of the clips and of every patch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from halovid.config.pairs import PairConfig, PairSource
from halovid.config.run import RunConfig
from halovid.maths import pairing
from halovid.maths.grid import pool_cells
from halovid.measuring.raters import Rater, mean_rater, read_raters
from halovid.stages import STAGES
from halovid.store.errors import InputError
from halovid.store.files import file_identity
from halovid.store.folders import StageFolder, open_stage
from halovid.store.tables import CLIPS, PAIRS, REWARDS, patch_lists, patch_matrix, read_table, rows_to_table


def check(config: RunConfig) -> None:
    """Raises InputError when the file of preferences can't be read."""
    if config.pair.preferences is not None:
        read_raters(config.pair.preferences, {})


def run(config: RunConfig, run_dir: Path) -> None:
    """Pairs clips of the same prompt."""
    preferences = file_identity(config.pair.preferences, "pair.preferences")
    depends = config.part("seed", "grid", "pair") | {"preferences": preferences}
    with open_stage(run_dir, "pair", depends, STAGES["pair"].reads(config)) as stage:
        if stage is None:
            return
        table = pa.concat_tables([_pairs_of(source, config, run_dir, stage) for source in config.pair.sources])
        stage.write("pairs.parquet", table.take(kept_pairs(len(table), config)))


def _pairs_of(source: PairSource, config: RunConfig, run_dir: Path, stage: StageFolder) -> pa.Table:
    """The pairs of one source."""
    if source == "restored":
        return read_table(run_dir / "restore" / "pairs.parquet", PAIRS)
    if source == "preferences" and config.pair.preferences is not None:
        everybody = mean_rater(read_raters(config.pair.preferences, {}), "everybody")
        return make_preferred_pairs(everybody, read_table(run_dir / "generate" / "clips.parquet", CLIPS), config, stage)

    if source == "candidates":
        return make_pairs(read_rewards(run_dir, "generate"), config, stage)
    if source == "good":
        return make_good_pairs(read_rewards(run_dir, "good"), read_rewards(run_dir, "generate"), config, stage)
    assert config.restore is not None  # the configuration has checked it
    remade = read_table(run_dir / "restore" / "pairs.parquet", PAIRS)
    rewards = pa.concat_tables([read_rewards(run_dir, name) for name in (config.restore.originals, "restore")])
    return make_twin_pairs(remade, rewards, config, stage)


def read_rewards(run_dir: Path, folder: str) -> pa.Table:
    """The rewards of the clips in a folder of the run, as `with_folder` gives them."""
    return with_folder(read_table(run_dir / "score" / folder / "rewards.parquet", REWARDS), folder)


def with_folder(rewards: pa.Table, folder: str) -> pa.Table:
    """Rows of tables.REWARDS with a further column `folder`: where in the run their clips lie."""
    return rewards.append_column("folder", pa.array([folder] * len(rewards), pa.string()))


def make_pairs(rewards: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """Candidates of a prompt against each other, as `pair.strategy` says.

    Raises:
        InputError: there is no pair at all.
    """
    return _pair_table(rewards, _choose(_prompts(rewards), _rewards(rewards), config.pair, config.seed), config, stage)


def make_good_pairs(good: pa.Table, candidates: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """Every good clip against every candidate of its prompt; the one with the higher reward is chosen.

    Raises:
        InputError: there is no pair at all.
    """
    both = pa.concat_tables([good, candidates]).combine_chunks()
    chosen, rejected = pairing.all_pairs(_prompts(both), _rewards(both))
    one_of_each = (chosen < len(good)) != (rejected < len(good))
    return _pair_table(both, (chosen[one_of_each], rejected[one_of_each]), config, stage)


def make_twin_pairs(remade: pa.Table, rewards: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """Every clip against what the base made of it; where that has clearly the higher reward there is no pair.

    Besides the difference of rewards the original counts as better by `twin_margin` wherever it was made anew:
    rewards alone see defects, and not that what the base makes moves less.

    Args:
        remade: the pairs of RUN/restore. Those with a clip that has no reward are left out.
        rewards: of the originals and of the new clips, each with its folder.

    Raises:
        InputError: there is no pair at all.
    """
    rewards = rewards.combine_chunks()
    rows = [pc.index_in(remade[side].combine_chunks(), rewards["clip_id"]) for side in ("chosen", "rejected")]
    scored = pc.and_(*(pc.is_valid(side) for side in rows))
    original, twin = (side.filter(scored).to_numpy() for side in rows)
    return _pair_table(rewards, (original, twin), config, stage, remade.filter(scored).combine_chunks())


def make_preferred_pairs(preferred: Rater, clips: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """The pairs that somebody compared, rows of tables.PAIRS; ties and pairs of other clips are skipped.

    Margins are the mean preferences of those who compared the pair, in -1..1; patches that nobody compared tie.

    Raises:
        InputError: there is no pair at all, or the patches belong to another grid than the recipe's.
    """
    prompts = dict(zip(clips["clip_id"].to_pylist(), clips["prompt_id"].to_pylist(), strict=True))
    rows, margins = [], []
    for pair, preference in preferred.preferences.items():
        if None in (owners := [prompts.get(clip) for clip in pair]) or owners[0] != owners[1]:
            stage.skip("/".join(pair), "not two clips of one prompt of this run")
        elif preference == 0:
            stage.skip("/".join(pair), "neither clip was found better")
        else:
            chosen, rejected = pair if preference > 0 else pair[::-1]
            row = {"prompt_id": owners[0], "chosen": chosen, "rejected": rejected}
            folders = {"chosen_folder": "generate", "rejected_folder": "generate"}
            rows.append(row | folders | {"clip_margin": abs(preference), "weight": 1.0})
            patches = preferred.patch_preferences.get(pair, np.zeros(config.grid.num_patches))
            margins.append(np.sign(preference) * patches)
    if not rows:
        raise InputError(f"{config.pair.preferences} decides no pair of two clips of one prompt of this run")
    pooled = patch_lists(_pool(np.stack(margins).astype(np.float32), config)).to_pylist()
    return rows_to_table([row | {"patch_margins": own} for row, own in zip(rows, pooled, strict=True)], PAIRS)


def _pair_table(
    rewards: pa.Table,
    pairs: tuple[np.ndarray, np.ndarray],
    config: RunConfig,
    stage: StageFolder,
    remade: pa.Table | None = None,
) -> pa.Table:
    """Rows of tables.PAIRS, of those pairs whose clip margin is above `min_margin`; prompts without are skipped.

    Args:
        pairs: row numbers of the chosen and the rejected clips.
        remade: rows of tables.PAIRS, what of each pair's chosen clip was made anew; `twin_margin` is added there.

    Raises:
        InputError: a reward is not finite, or there is no pair at all.
    """
    reward, patches = _finite_rewards(rewards)
    margin = reward[pairs[0]] - reward[pairs[1]]
    if remade is not None:
        margin = margin + config.pair.twin_margin * remade["clip_margin"].to_numpy()
    kept = margin > config.pair.min_margin
    chosen, rejected = (side[kept] for side in pairs)
    _skip_unpaired(rewards, chosen, config, stage)
    patch_margins = _pool(patches[chosen] - patches[rejected], config)
    if remade is not None:
        patch_margins += np.float32(config.pair.twin_margin) * patch_matrix(remade, "patch_margins")[kept]
    weight = pairing.rarity_weights(reward, chosen, rejected, config.pair.rarity_power)
    columns = {
        "prompt_id": rewards["prompt_id"].combine_chunks().take(chosen),
        "chosen": rewards["clip_id"].combine_chunks().take(chosen),
        "rejected": rewards["clip_id"].combine_chunks().take(rejected),
        "chosen_folder": rewards["folder"].combine_chunks().take(chosen),
        "rejected_folder": rewards["folder"].combine_chunks().take(rejected),
        "clip_margin": margin[kept].astype(np.float32),
        "patch_margins": patch_lists(patch_margins),
        "weight": weight.astype(np.float32),
    }
    return pa.table(columns, schema=PAIRS)


def _finite_rewards(rewards: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The rewards of clips [n] and patches [n, P]; InputError when some are not finite."""
    reward = _rewards(rewards)
    patches = patch_matrix(rewards, "patch_rewards") if len(rewards) else np.empty((0, 0))
    finite = np.isfinite(reward) & np.isfinite(patches).all(1)
    if not finite.all():
        raise InputError(
            f"{int((~finite).sum())} of {len(finite)} clips have rewards that are not finite, which no pair can hold; "
            f"run `halovid score` again"
        )
    return reward, patches


def _skip_unpaired(rewards: pa.Table, chosen: np.ndarray, config: RunConfig, stage: StageFolder) -> None:
    """Lists the prompts that no pair is of; InputError when that is all of them."""
    prompts = _prompts(rewards)
    names = rewards.column("prompt_id").combine_chunks()
    for index in np.setdiff1d(prompts, prompts[chosen]):
        own = np.flatnonzero(prompts == index)
        few, none = "fewer than two scored clips", f"no pair with a margin above {config.pair.min_margin}"
        stage.skip(names[int(own[0])].as_py(), few if len(own) < 2 else none)
    if not len(chosen):
        raise InputError(
            f"no usable pair among {len(rewards)} scored clips of {len(np.unique(prompts))} prompts (pair.strategy "
            f"{config.pair.strategy!r}, min_margin {config.pair.min_margin}); generate more candidates or lower "
            f"pair.min_margin"
        )


def _prompts(rewards: pa.Table) -> np.ndarray:
    """The prompt of each clip, as a number."""
    return pc.dictionary_encode(rewards.column("prompt_id").combine_chunks()).indices.to_numpy()


def _rewards(rewards: pa.Table) -> np.ndarray:
    return rewards.column("reward").to_numpy()


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
            f"the rewards or preferences have {margins.shape[1]} patches, the recipe's grid {config.grid.shape} has "
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
