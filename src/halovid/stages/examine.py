"""examine: the reward model against the truth, on clips of the base that it was not trained on.

    halovid examine RECIPE.yaml RUN

Reads RUN/baseline and RUN/reward. Writes RUN/examine/agreement.parquet: how well its ratings of clips and patches
agree with the truth, densely and by crops; no rows where nobody knows the truth (`evaluate.instruments` without
`inspector`) or where a released or served model gives the rewards and the run has none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from halovid.clips.folder import ClipFolder, Row
from halovid.config.run import RunConfig
from halovid.judges import make_truth
from halovid.judges.base import label_rows, make_requests
from halovid.records import DEFECT_RATING, Judgement
from halovid.rewards.agreement import agreement_rows
from halovid.rewards.data import load_labelled
from halovid.rewards.network import load_reward
from halovid.stages import STAGES
from halovid.store.folders import open_stage
from halovid.store.runtime import batches, clips_at_once
from halovid.store.tables import AGREEMENT, LABELS, rows_to_table

_BATCH = 32
_CROP_BATCH = 4


def run(config: RunConfig, run_dir: Path) -> None:
    """Rates the base's clips with both, and compares."""
    depends = config.part("grid", "examine") | {"truth": config.knows_truth}
    with open_stage(run_dir, "examine", depends, STAGES["examine"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        known = config.score.uses_run_network and config.knows_truth
        rows = _agreement(config, run_dir) if known else []
        stage.write("agreement.parquet", rows_to_table(rows, AGREEMENT))


def _agreement(config: RunConfig, run_dir: Path) -> list[Row]:
    """Rows of tables.AGREEMENT, dense and crop."""
    network = load_reward(run_dir / "reward")
    clips = ClipFolder(run_dir / "baseline", config.reward_size)
    clips.rows = clips.rows[: config.examine.clips]
    whole = ClipFolder(run_dir / "baseline", config.clip_size)
    truth = rows_to_table(_true_labels(whole, clips.rows, config), LABELS)
    spec = network.spec
    data, _ = load_labelled(
        clips, truth, spec.aspects, spec.patch_aspects, config.grid, lambda *_: None, network.backbone
    )
    rows = agreement_rows(network, data, "dense", config.grid, DEFECT_RATING, config.score.batch_size)
    few = data.subset(torch.arange(min(config.examine.crop_clips, len(data))))
    return rows + (agreement_rows(network, few, "crop", config.grid, DEFECT_RATING, _CROP_BATCH) if len(few) else [])


def _true_labels(clips: ClipFolder, some: Sequence[Row], config: RunConfig) -> list[Row]:
    """The true labels of some clips."""
    judge, labels = make_truth(config.grid), []
    for batch in batches(some, clips_at_once(config.clip_size, _BATCH)):
        rows, video = clips.readable(batch, lambda *_: None)  # the unreadable ones were listed while measuring
        if video is not None:
            requests = make_requests(rows, video)
            for request, answer in zip(requests, judge.judge(requests, clips.geometry), strict=True):
                labels += label_rows(request.clip_id, answer, judge.name) if isinstance(answer, Judgement) else []
    return labels
