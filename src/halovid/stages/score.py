"""score: clips and reward model -> rewards of the clips and of their patches.

    halovid score RECIPE.yaml RUN

Reads RUN/reward, or with `score.trained` that of another run, and those of the clip folders RUN/generate, RUN/good,
RUN/repair and RUN/restore that `pair.sources` compares by rewards. For each of these FOLDERs writes
RUN/score/FOLDER/rewards.parquet, and ratings.parquet with the ratings by aspect, in the columns of a judge's labels. A
reward is the mean rating over the aspects.

With `score.released` or `score.server` a released reward model takes the place of RUN/reward and rates every patch as a
crop; then RUN/score/FOLDER/released.parquet, instead of ratings.parquet, has all its scores and what it was shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from halovid.clips.folder import ClipFolder
from halovid.config.run import RunConfig
from halovid.judges.base import label_rows
from halovid.records import Judgement, PromptBatch, Rewards
from halovid.remote.redaction import missing_keys
from halovid.rewards.rewarder import check_rewarder, open_rewarder, reward_rows, rewarder_identity
from halovid.stages import STAGES
from halovid.store.folders import StageFolder, open_stage
from halovid.store.tables import LABELS, RELEASED, REWARDS
from halovid.store.work import Row, Skip, Worker

# The rows that the work returns for a reward network: rewards, with the ratings that they are means of.
_REWARDS_WITH_RATINGS = REWARDS.append(pa.field("ratings", pa.list_(pa.struct(list(LABELS)))))
_FOLDER = pa.field("folder", pa.string())  # the name of the clip folder that a clip is in


def check(config: RunConfig) -> None:
    """Raises InputError when the released model is not there, or the served one lacks a package or its question."""
    check_rewarder(config)


def warnings(config: RunConfig) -> list[str]:
    """What a served model lacks to be asked anything: its key."""
    server = config.score.server
    return missing_keys([server.endpoint], "score.server") if server else []


def run(config: RunConfig, run_dir: Path) -> None:
    """Rewards every clip and its patches; clips that can't be read or that the rewarder refuses are skipped."""
    depends = config.part("grid") | {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "score", depends, STAGES["score"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        clips = [
            (name, row) for name in config.scored_folders for row in ClipFolder(run_dir / name, config.scored_size).rows
        ]
        # A released model takes many passes or paid calls for a clip: its results are kept clip by clip.
        uses_network = config.score.uses_network
        batch_size, schema = (config.score.batch_size, _REWARDS_WITH_RATINGS) if uses_network else (1, RELEASED)
        work = ScoreClips(config, run_dir)
        scored = stage.map_batches("score", clips, batch_size, work, schema.append(_FOLDER))
        for name in config.scored_folders:
            _write_tables(stage, name, scored.filter(pc.equal(scored["folder"], name)), uses_network)
        stage.check_outage()


def _write_tables(stage: StageFolder, name: str, scored: pa.Table, uses_network: bool) -> None:
    """Writes the tables of the clip folder `name`: rewards, and what they were computed from."""
    if uses_network:
        ratings = pa.Table.from_struct_array(scored["ratings"].combine_chunks().flatten())
        stage.write(f"{name}/ratings.parquet", ratings.cast(LABELS))
    else:
        stage.write(f"{name}/released.parquet", scored.select(RELEASED.names).cast(RELEASED))
    stage.write(f"{name}/rewards.parquet", scored.select(REWARDS.names).cast(REWARDS))


@dataclass(frozen=True)
class ScoreClips:
    """Work on clips, each given as (name of its clip folder, its row): the rewarder rewards it and its patches."""

    config: RunConfig
    run_dir: Path

    def open(self) -> Worker[tuple[str, Row]]:
        """See `Work.open`."""
        config = self.config
        rewarder = open_rewarder(config, self.run_dir)
        folder_names = {"generate", *config.scored_folders}
        folders = {name: ClipFolder(self.run_dir / name, config.scored_size) for name in folder_names}
        make_row = _row_with_ratings if config.score.uses_network else _released_row

        def score(batch: Sequence[tuple[str, Row]], skip: Skip) -> list[Row]:
            return [row for name, rows in _by_folder(batch) for row in score_folder(name, rows, skip)]

        def score_folder(name: str, batch: Sequence[Row], skip: Skip) -> list[Row]:
            rows, rewards = reward_rows(rewarder, folders[name], batch, folders["generate"], skip)
            if rewards is None:
                return []
            prompts = folders["generate"].prompt_batch(rows, conditioned=False)
            rewarded = [index for index, refusal in enumerate(rewards.refusals) if refusal is None]
            return [make_row(rows[index], rewards, prompts, index) | {"folder": name} for index in rewarded]

        return score


def _by_folder(clips: Sequence[tuple[str, Row]]) -> Iterator[tuple[str, list[Row]]]:
    """The name of each clip folder in a batch, with its rows."""
    for name, same_folder in itertools.groupby(clips, key=lambda clip: clip[0]):
        yield name, [row for _, row in same_folder]


def _reward_row(row: Row, rewards: Rewards, index: int) -> Row:
    """The row of tables.REWARDS of a clip; `index`: its position in the batch of rewards."""
    return {
        "clip_id": row["clip_id"],
        "prompt_id": row["prompt_id"],
        "reward": rewards.clip[index].item(),
        "patch_rewards": rewards.patches[index].flatten().tolist(),
    }


def _row_with_ratings(row: Row, rewards: Rewards, prompts: PromptBatch, index: int) -> Row:
    """The row of `_reward_row` with the ratings of the clip, as rows of tables.LABELS."""
    ratings_by_aspect = rewards.ratings.items()
    judgement = Judgement(
        {aspect: ratings.clip[index].item() for aspect, ratings in ratings_by_aspect},
        {aspect: ratings.patches[index] for aspect, ratings in ratings_by_aspect if ratings.patches is not None},
    )
    return _reward_row(row, rewards, index) | {"ratings": label_rows(row["clip_id"], judgement, "reward model")}


def _released_row(row: Row, rewards: Rewards, prompts: PromptBatch, index: int) -> Row:
    """The row of tables.RELEASED of a clip: all scores of the whole clip, and what the model was shown of it."""
    showing = rewards.showings[index]
    assert showing is not None, "a clip that was shown to no model has no reward"
    return _reward_row(row, rewards, index) | {
        "names": list(rewards.ratings),
        "scores": [ratings.clip[index].item() for ratings in rewards.ratings.values()],
        "frames": list(showing.frames),
        "fps": prompts.fps[index],
        "policy": showing.policy,
        "model": showing.model,
    }
