"""score: candidate clips and reward model -> rewards.

    halovid score RECIPE.yaml RUN

Reads RUN/reward and the clip folders that pairs are made of: RUN/generate, RUN/good, RUN/restore. For each of these
writes RUN/score/FOLDER/rewards.parquet and, aspect by aspect like a judge's labels, ratings.parquet. A reward is the
mean rating over the aspects.
With `score.released` or `score.server` a released reward model takes the place of RUN/reward: every patch is scored as
a crop, and RUN/score/FOLDER/released.parquet tells all its scores and what it was shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from halovid.clips.folder import ClipFolder, Row
from halovid.config.reward import ScoreConfig
from halovid.config.run import RunConfig
from halovid.judges.base import label_rows
from halovid.records import Judgement, PromptBatch, Rewards
from halovid.rewards.rewarder import Rewarder, open_rewarder, rewarder_identity
from halovid.stages import STAGES
from halovid.store.folders import StageFolder, open_stage
from halovid.store.tables import LABELS, RELEASED, REWARDS

# what is kept of a batch that the run's own network has rewarded: the ratings that its rewards are means of
_RATED = REWARDS.append(pa.field("ratings", pa.list_(pa.struct(list(LABELS)))))


def run(config: RunConfig, run_dir: Path) -> None:
    """Rewards every candidate and its patches; clips that can't be read or that the rewarder refuses are skipped."""
    depends = config.part("grid") | {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "score", depends, STAGES["score"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        generated = ClipFolder(run_dir / "generate", config.scored_size)
        rewarder = open_rewarder(config, run_dir)
        for name in config.scored_folders:
            clips = generated if name == "generate" else ClipFolder(run_dir / name, config.scored_size)
            _score_folder(stage, name, clips, generated, rewarder, config.score)
        stage.check_outage()


def _score_folder(
    stage: StageFolder, name: str, clips: ClipFolder, generated: ClipFolder, rewarder: Rewarder, config: ScoreConfig
) -> None:
    """Writes the tables of the clip folder `name`; `generated` holds the text conditions of its prompts."""
    by_network = config.uses_run_network

    def score(batch: Sequence[Row]) -> list[Row]:
        rows, video = clips.readable(batch, stage.skip)
        if video is None:
            return []
        prompts = generated.prompt_batch(rows, rewarder.needs_conditioning)
        rewards = rewarder.reward(video, prompts)
        _skip_refused(stage, rows, rewards)
        rewarded = [index for index, refusal in enumerate(rewards.refusals) if refusal is None]
        make_row = _rated_row if by_network else _released_row
        return [make_row(rows[index], rewards, prompts, index) for index in rewarded]

    # released models clip by clip, each of which is many passes or calls: what was paid for is kept
    batch_size, schema = (config.batch_size, _RATED) if by_network else (1, RELEASED)
    table = stage.map_batches(f"score {name}", clips.rows, batch_size, score, schema)
    if by_network:
        ratings = pa.Table.from_struct_array(table["ratings"].combine_chunks().flatten())
        stage.write(f"{name}/ratings.parquet", ratings.cast(LABELS))
    else:
        stage.write(f"{name}/released.parquet", table)
    stage.write(f"{name}/rewards.parquet", table.select(REWARDS.names).cast(REWARDS))


def _skip_refused(stage: StageFolder, rows: Sequence[Row], rewards: Rewards) -> None:
    """Notes the clips that got no reward, and which of them may get one another time."""
    for row, refusal in zip(rows, rewards.refusals, strict=True):
        if refusal is not None:
            stage.skip(row["clip_id"], refusal.reason, refusal.again)


def _reward_row(row: Row, rewards: Rewards, index: int) -> Row:
    """The row of tables.REWARDS of a clip, number `index` of a batch."""
    return {
        "clip_id": row["clip_id"],
        "prompt_id": row["prompt_id"],
        "reward": rewards.clip[index].item(),
        "patch_rewards": rewards.patches[index].flatten().tolist(),
    }


def _rated_row(row: Row, rewards: Rewards, prompts: PromptBatch, index: int) -> Row:
    """The same with its ratings, as rows of tables.LABELS: the run's network rates as a judge does."""
    ratings = rewards.ratings.items()
    judgement = Judgement(
        {aspect: rated.clip[index].item() for aspect, rated in ratings},
        {aspect: rated.patches[index] for aspect, rated in ratings if rated.patches is not None},
    )
    return _reward_row(row, rewards, index) | {"ratings": label_rows(row["clip_id"], judgement, "reward model")}


def _released_row(row: Row, rewards: Rewards, prompts: PromptBatch, index: int) -> Row:
    """The row of tables.RELEASED of a clip: all scores of the whole clip, and what the model was shown of it."""
    showing = rewards.showings[index]
    assert showing is not None, "a clip that was shown to no model has no reward"
    return _reward_row(row, rewards, index) | {
        "names": list(rewards.ratings),
        "scores": [rated.clip[index].item() for rated in rewards.ratings.values()],
        "frames": list(showing.frames),
        "fps": prompts.fps[index],
        "policy": showing.policy,
        "model": showing.model,
    }
