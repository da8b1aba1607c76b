"""pair: rewards, or preferences of others -> preference pairs.

    halovid pair RECIPE.yaml RUN

Reads, as each of `pair.sources` needs them: RUN/score for "candidates" and "good"; RUN/score and RUN/repair for
"repaired" and "before_repair"; RUN/score and RUN/restore for "twins"; RUN/restore for "restored"; RUN/generate and the
file `pair.preferences` for "preferences". With `pair.min_motion` reads the clips of all pairs as well. Writes
RUN/pair/pairs.parquet: folder and id of both clips of a pair, the margin between the clips and of every patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from halovid.clips.folder import ClipFolder
from halovid.config.pairs import PairConfig, PairSource
from halovid.config.run import RunConfig
from halovid.maths import pairing
from halovid.maths.grid import pool_cells
from halovid.maths.video_metrics import dynamic_degree
from halovid.measuring.raters import Rater, mean_rater, read_raters
from halovid.stages import STAGES
from halovid.store.errors import InputError
from halovid.store.files import file_identity
from halovid.store.folders import StageFolder, open_stage
from halovid.store.tables import CLIPS, PAIRS, REPAIRS, REWARDS, patch_lists, patch_matrix, read_table, rows_to_table
from halovid.store.work import Row, Skip, Worker

_BATCH = 16
_MOTION = pa.schema({"folder": pa.string(), "clip_id": pa.string(), "motion": pa.float32()})


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
        stage.use_threads(config.threads)
        table = pa.concat_tables([_pairs_of(source, config, run_dir, stage) for source in config.pair.sources])
        if config.pair.min_motion:
            table = _drop_slow(table, config, run_dir, stage)
        stage.write("pairs.parquet", table.take(kept_pairs(len(table), config)))


def _pairs_of(source: PairSource, config: RunConfig, run_dir: Path, stage: StageFolder) -> pa.Table:
    """The pairs of one source, rows of tables.PAIRS."""
    if source == "restored":
        return read_table(run_dir / "restore" / "pairs.parquet", PAIRS)
    if source == "preferences" and config.pair.preferences is not None:
        mean_of_raters = mean_rater(read_raters(config.pair.preferences, {}), "everybody")
        clips = read_table(run_dir / "generate" / "clips.parquet", CLIPS)
        return make_preferred_pairs(mean_of_raters, clips, config, stage)
    if source == "twins":
        assert config.restore is not None  # the configuration has checked it
        restored_pairs = read_table(run_dir / "restore" / "pairs.parquet", PAIRS)
        rewards = pa.concat_tables([read_rewards(run_dir, name) for name in (config.restore.originals, "restore")])
        return make_twin_pairs(restored_pairs, rewards, config, stage)
    candidates = read_rewards(run_dir, "generate")
    if source == "candidates":
        return make_pairs(candidates, config, stage)
    if source == "good":
        return make_good_pairs(read_rewards(run_dir, "good"), candidates, config, stage)
    repairs = read_table(run_dir / "repair" / "repairs.parquet", REPAIRS)
    repaired = read_rewards(run_dir, "repair")
    if source == "repaired":
        not_repaired = pc.invert(pc.is_in(candidates["clip_id"], repairs["original"].combine_chunks()))
        return make_good_pairs(repaired, candidates.filter(not_repaired), config, stage)
    return make_repair_pairs(repairs, pa.concat_tables([repaired, candidates]), config, stage)


def _drop_slow(pairs: pa.Table, config: RunConfig, run_dir: Path, stage: StageFolder) -> pa.Table:
    """The pairs whose chosen clip moves at least `min_motion` of what the rejected one does; others are skipped.

    Raises:
        InputError: there is no such pair.
    """
    rows = pairs.to_pylist()
    sides = [[(row[f"{side}_folder"], row[side]) for row in rows] for side in ("chosen", "rejected")]
    clips = list(dict.fromkeys([*sides[0], *sides[1]]))
    measured = stage.map_batches("measure motion", clips, _BATCH, MeasureMotion(config, run_dir), _MOTION).to_pylist()
    motion = {(row["folder"], row["clip_id"]): row["motion"] for row in measured}
    kept = []
    for chosen, rejected in zip(*sides, strict=True):
        kept.append(motion.get(chosen, 0.0) >= config.pair.min_motion * motion.get(rejected, np.inf))
        if not kept[-1]:
            stage.skip(f"{chosen[1]}/{rejected[1]}", "the chosen clip moves less than pair.min_motion allows")
    if not any(kept):
        raise InputError(
            f"in none of {len(rows)} pairs does the chosen clip move at least {config.pair.min_motion} times as much "
            f"as the rejected one; lower pair.min_motion"
        )
    return pairs.filter(pa.array(kept))


@dataclass(frozen=True)
class MeasureMotion:
    """Work on clips, each given as (name of its clip folder, its id): measures how much they move."""

    config: RunConfig
    run_dir: Path

    def open(self) -> Worker[tuple[str, str]]:
        """See `Work.open`."""
        folders = {name: ClipFolder(self.run_dir / name, self.config.clip_size) for name in self.config.paired_folders}
        rows_of = {(name, row["clip_id"]): row for name, folder in folders.items() for row in folder.rows}

        def measure(batch: Sequence[tuple[str, str]], skip: Skip) -> list[Row]:
            measured: list[Row] = []
            for name, clip_id in batch:
                rows, video = folders[name].readable([rows_of[name, clip_id]], skip)
                if rows and video is not None:
                    motion = dynamic_degree(video).item()
                    measured.append({"folder": name, "clip_id": clip_id, "motion": motion})
            return measured

        return measure


def read_rewards(run_dir: Path, folder: str) -> pa.Table:
    """The rewards of the clips in a clip folder of the run, with the column `folder` of `with_folder`."""
    return with_folder(read_table(run_dir / "score" / folder / "rewards.parquet", REWARDS), folder)


def with_folder(rewards: pa.Table, folder: str) -> pa.Table:
    """Rows of tables.REWARDS with a further column `folder`, the name of the clip folder that the clips are in."""
    return rewards.append_column("folder", pa.array([folder] * len(rewards), pa.string()))


def make_pairs(rewards: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """Pairs of candidates of the same prompt, as `pair.strategy` says.

    Raises:
        InputError: there is no pair at all.
    """
    return _pair_table(rewards, _choose(_prompts(rewards), _rewards(rewards), config.pair, config.seed), config, stage)


def make_good_pairs(good: pa.Table, candidates: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """Pairs of every good or repaired clip with every candidate of its prompt; that with the higher reward is chosen.

    Raises:
        InputError: there is no pair at all.
    """
    rewards = pa.concat_tables([good, candidates]).combine_chunks()
    chosen, rejected = pairing.all_pairs(_prompts(rewards), _rewards(rewards))
    good_with_candidate = (chosen < len(good)) != (rejected < len(good))
    return _pair_table(rewards, (chosen[good_with_candidate], rejected[good_with_candidate]), config, stage)


def make_repair_pairs(repairs: pa.Table, rewards: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """Pairs of every repaired clip, which is chosen, with the candidate that it was made from.

    Args:
        repairs: rows of tables.REPAIRS.
        rewards: of the repaired clips and the candidates, with the column `folder`.

    Raises:
        InputError: there is no pair at all.
    """
    rewards = rewards.combine_chunks()
    repairs = repairs.filter(pc.equal(repairs["round"], 0))  # one row for each clip
    rows = [pc.index_in(repairs[column].combine_chunks(), rewards["clip_id"]) for column in ("clip_id", "original")]
    rewarded = pc.and_(pc.is_valid(rows[0]), pc.is_valid(rows[1]))
    repaired, originals = (index.filter(rewarded).to_numpy() for index in rows)
    return _pair_table(rewards, (repaired, originals), config, stage)


def make_twin_pairs(restored_pairs: pa.Table, rewards: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """Pairs of every original, which is chosen, with its twin: the clip that the base made anew from it.

    The margin is the difference of the rewards, plus `twin_margin` times the share of the clip or patch that was made
    anew: rewards see defects, but not that the base's clips move less. Pairs whose margin is not above
    `pair.min_margin` are left out.

    Args:
        restored_pairs: the pairs of RUN/restore. Those with a clip that has no reward are left out.
        rewards: of the originals and their twins, with the column `folder`.

    Raises:
        InputError: there is no pair at all.
    """
    rewards = rewards.combine_chunks()
    originals, twins = (
        pc.index_in(restored_pairs[column].combine_chunks(), rewards["clip_id"]) for column in ("chosen", "rejected")
    )
    rewarded = pc.and_(pc.is_valid(originals), pc.is_valid(twins))
    rows = originals.filter(rewarded).to_numpy(), twins.filter(rewarded).to_numpy()
    return _pair_table(rewards, rows, config, stage, restored_pairs.filter(rewarded).combine_chunks())


def make_preferred_pairs(preferred: Rater, clips: pa.Table, config: RunConfig, stage: StageFolder) -> pa.Table:
    """The pairs that raters compared, rows of tables.PAIRS; ties and pairs of other clips are listed as skipped.

    Margins are the mean preferences of those who compared the pair, in -1..1; a patch that nobody compared gets 0.

    Raises:
        InputError: there is no pair at all, or the patches belong to another grid than the recipe's.
    """
    prompts = dict(zip(clips["clip_id"].to_pylist(), clips["prompt_id"].to_pylist(), strict=True))
    rows, margins = [], []
    for pair, preference in preferred.preferences.items():
        prompt_ids = [prompts.get(clip) for clip in pair]
        if None in prompt_ids or prompt_ids[0] != prompt_ids[1]:
            stage.skip("/".join(pair), "not two clips of one prompt of this run")
        elif preference == 0:
            stage.skip("/".join(pair), "neither clip was found better")
        else:
            chosen, rejected = pair if preference > 0 else pair[::-1]
            row = {"prompt_id": prompt_ids[0], "chosen": chosen, "rejected": rejected}
            folders = {"chosen_folder": "generate", "rejected_folder": "generate"}
            rows.append(row | folders | {"clip_margin": abs(preference), "weight": 1.0})
            patches = preferred.patch_preferences.get(pair, np.zeros(config.grid.num_patches))
            margins.append(np.sign(preference) * patches)
    if not rows:
        raise InputError(f"{config.pair.preferences} decides no pair of two clips of one prompt of this run")
    pooled = patch_lists(_pool(np.stack(margins).astype(np.float32), config)).to_pylist()
    return rows_to_table([row | {"patch_margins": patches} for row, patches in zip(rows, pooled, strict=True)], PAIRS)


def _pair_table(
    rewards: pa.Table,
    pairs: tuple[np.ndarray, np.ndarray],
    config: RunConfig,
    stage: StageFolder,
    restored_pairs: pa.Table | None = None,
) -> pa.Table:
    """Rows of tables.PAIRS, of those pairs whose clip margin is above `min_margin`.

    Prompts without such a pair are listed as skipped.

    Args:
        pairs: row numbers of the chosen and of the rejected clips in `rewards`.
        restored_pairs: for twins: a row of tables.PAIRS for each pair, whose margins are the shares of the clip and of
            its patches that were made anew; `twin_margin` times these is added to the margins.

    Raises:
        InputError: a reward is not finite, or there is no pair at all.
    """
    reward, patches = _finite_rewards(rewards)
    margin = reward[pairs[0]] - reward[pairs[1]]
    if restored_pairs is not None:
        margin = margin + config.pair.twin_margin * restored_pairs["clip_margin"].to_numpy()
    above_minimum = margin > config.pair.min_margin
    chosen, rejected = (rows[above_minimum] for rows in pairs)
    _skip_unpaired(rewards, chosen, config, stage)
    patch_margins = _pool(patches[chosen] - patches[rejected], config)
    if restored_pairs is not None:
        restored_shares = patch_matrix(restored_pairs, "patch_margins")[above_minimum]
        patch_margins += np.float32(config.pair.twin_margin) * restored_shares
    weight = pairing.rarity_weights(reward, chosen, rejected, config.pair.rarity_power)
    columns = {
        "prompt_id": rewards["prompt_id"].combine_chunks().take(chosen),
        "chosen": rewards["clip_id"].combine_chunks().take(chosen),
        "rejected": rewards["clip_id"].combine_chunks().take(rejected),
        "chosen_folder": rewards["folder"].combine_chunks().take(chosen),
        "rejected_folder": rewards["folder"].combine_chunks().take(rejected),
        "clip_margin": margin[above_minimum].astype(np.float32),
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
    """Lists the prompts without a pair as skipped; InputError when there is no pair at all."""
    prompts = _prompts(rewards)
    prompt_ids = rewards.column("prompt_id").combine_chunks()
    for prompt in np.setdiff1d(prompts, prompts[chosen]):
        clips = np.flatnonzero(prompts == prompt)
        reason = f"no pair with a margin above {config.pair.min_margin}"
        stage.skip(prompt_ids[int(clips[0])].as_py(), "fewer than two scored clips" if len(clips) < 2 else reason)
    if not len(chosen):
        raise InputError(
            f"no usable pair among {len(rewards)} scored clips of {len(np.unique(prompts))} prompts (pair.strategy "
            f"{config.pair.strategy!r}, min_margin {config.pair.min_margin}); generate more candidates or lower "
            f"pair.min_margin"
        )


def _prompts(rewards: pa.Table) -> np.ndarray:
    """The prompt of each clip [n], numbered from 0."""
    return pc.dictionary_encode(rewards.column("prompt_id").combine_chunks()).indices.to_numpy()


def _rewards(rewards: pa.Table) -> np.ndarray:
    return rewards.column("reward").to_numpy()


def kept_pairs(count: int, config: RunConfig) -> np.ndarray:
    """Indices of at most `pair.limit` random pairs; those of a smaller limit are among those of a larger one."""
    return np.sort(np.random.default_rng([config.seed, 1]).permutation(count)[: config.pair.limit])


def _pool(margins: np.ndarray, config: RunConfig) -> np.ndarray:
    """Patch margins [pairs, patches] of the recipe's grid, averaged over the coarser patches of `margin_grid`.

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
