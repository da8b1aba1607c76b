"""judge: candidate clips -> labels of clips and patches.

    halovid judge RECIPE.yaml RUN

Reads RUN/generate; writes RUN/judge/labels.parquet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from halovid.clips import ClipFolder, Row
from halovid.config import RunConfig
from halovid.folders import open_stage
from halovid.judges import make_judge
from halovid.judges.base import Refusal, label_rows
from halovid.runtime import set_threads
from halovid.tables import LABELS

_BATCH = 32


def run(config: RunConfig, run_dir: Path) -> None:
    """Has every candidate judged; clips that can't be read or judged are listed as skipped."""
    judge = make_judge(config.judge, config.grid, config.seed)
    depends = config.part("seed", "grid") | {"judge": judge.name}
    with open_stage(run_dir, "judge", depends, ["generate"]) as stage:
        if stage is None:
            return
        set_threads(config.threads)
        clips = ClipFolder(run_dir / "generate", config.clip_size)

        def label(batch: Sequence[Row]) -> list[Row]:
            rows, video = clips.readable(batch, stage.skip)
            if video is None:
                return []
            answers = judge.judge(video, [row["prompt"] for row in rows], [row["clip_id"] for row in rows])
            labels = []
            for row, answer in zip(rows, answers, strict=True):
                if isinstance(answer, Refusal):
                    stage.skip(row["clip_id"], answer.reason)
                else:
                    labels += label_rows(row["clip_id"], answer, judge.name)
            return labels

        stage.write("labels.parquet", stage.map_batches("judge", clips.rows, _BATCH, label, LABELS))
