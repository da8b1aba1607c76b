"""examine: the reward model against the truth, on clips of the base that it was not trained on.

    halovid examine RECIPE.yaml RUN

Reads RUN/baseline, and RUN/reward unless a released or served model gives the rewards. Writes
RUN/examine/agreement.parquet: how well the reward model's ratings of clips and patches agree with the truth, for both
ways of rating patches, `dense` and `crop`. The table is empty where the truth is unknown (`evaluate.instruments`
without "inspector"), or where the run has no reward model of its own.
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
from halovid.rewards.backbones import DenoiserSpec
from halovid.rewards.data import load_labelled
from halovid.rewards.hidden_states import open_reader
from halovid.rewards.network import load_reward
from halovid.stages import STAGES
from halovid.store.folders import open_stage
from halovid.store.runtime import batches, clips_at_once
from halovid.store.tables import AGREEMENT, LABELS, rows_to_table

_BATCH = 32  # clips whose true labels are found at once, at most
_CROP_BATCH = 4  # clips that are rated by crops at once


def run(config: RunConfig, run_dir: Path) -> None:
    """Compares the reward model's ratings of the base's clips with their true labels."""
    depends = config.part("grid", "examine") | {"truth": config.knows_truth}
    with open_stage(run_dir, "examine", depends, STAGES["examine"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        can_compare = config.score.uses_run_network and config.knows_truth
        rows = _agreement(config, run_dir) if can_compare else []
        stage.write("agreement.parquet", rows_to_table(rows, AGREEMENT))


def _agreement(config: RunConfig, run_dir: Path) -> list[Row]:
    """Rows of tables.AGREEMENT: of `examine.clips` clips rated densely, and of `examine.crop_clips` rated by crops."""
    network = load_reward(run_dir / "reward")
    clips = ClipFolder(run_dir / "baseline", config.reward_size)
    clips.rows = clips.rows[: config.examine.clips]
    full_size_clips = ClipFolder(run_dir / "baseline", config.clip_size)
    truth = rows_to_table(_true_labels(full_size_clips, clips.rows, config), LABELS)
    spec = network.spec
    reader = open_reader(config, spec.backbone) if isinstance(spec.backbone, DenoiserSpec) else None
    data, _ = load_labelled(
        clips, truth, spec.aspects, spec.patch_aspects, config.grid, lambda *_: None, network.backbone, reader
    )
    rows = agreement_rows(network, data, "dense", config.grid, DEFECT_RATING, config.score.batch_size)
    cropped = data.subset(torch.arange(min(config.examine.crop_clips, len(data))))
    if len(cropped) and network.backbone.sees_pixels:
        rows += agreement_rows(network, cropped, "crop", config.grid, DEFECT_RATING, _CROP_BATCH)
    return rows


def _true_labels(clips: ClipFolder, clip_rows: Sequence[Row], config: RunConfig) -> list[Row]:
    """Rows of tables.LABELS: the true labels of the clips in these rows of the clip table."""
    judge, labels = make_truth(config.grid), []
    for batch in batches(clip_rows, clips_at_once(config.clip_size, _BATCH)):
        rows, video = clips.readable(batch, lambda *_: None)  # `baseline` has listed the clips that can't be read
        if video is not None:
            requests = make_requests(rows, video)
            for request, answer in zip(requests, judge.judge(requests, clips.geometry), strict=True):
                labels += label_rows(request.clip_id, answer, judge.name) if isinstance(answer, Judgement) else []
    return labels
