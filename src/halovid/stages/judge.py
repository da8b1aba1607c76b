"""judge: candidate clips -> labels of clips and patches.

    halovid judge RECIPE.yaml RUN [--dry-run]

Reads RUN/generate; with `judge: table` also the file `judge.labels`, and with `judge.questions` that file. Writes
RUN/judge/labels.parquet, votes.parquet if the judge explains itself, and questions.parquet if it is not asked about all
patches. Clips that failed for a reason that may pass (a server's fault, a spent budget) are tried again by the next run
of the stage.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from halovid.clips.folder import ClipFolder
from halovid.config.run import RunConfig
from halovid.judges import make_judge
from halovid.judges.base import label_rows, make_requests, only_asked, vote_rows
from halovid.judges.rounds import planned_rounds, write_rounds
from halovid.judges.table import TableJudge
from halovid.records import Judgement, Refusal, Request, Rounds
from halovid.remote.redaction import missing_keys
from halovid.stages import STAGES
from halovid.store.errors import InputError
from halovid.store.files import file_identity
from halovid.store.folders import StageFolder, open_stage
from halovid.store.runtime import Advance, progress, set_threads
from halovid.store.tables import LABELS, VOTES, rows_to_table
from halovid.store.work import Row, Skip, Worker

_BATCH = 32  # clips judged at once, at most
_MEMORY = 2**31  # bytes of pixels held at once: large clips are judged in smaller batches
# The rows that the work returns: labels, with all votes on a clip in the row of its first label.
_LABELS_WITH_VOTES = LABELS.append(pa.field("votes", pa.list_(pa.struct(list(VOTES)))))


def check(config: RunConfig) -> None:
    """Raises InputError when the judge lacks something: a file of labels or of questions, a package."""
    make_judge(config.judge, config.grid, config.seed)
    file_identity(config.judge.questions, "judge.questions")


def warnings(config: RunConfig) -> list[str]:
    """What the judge lacks to ask anything: keys of its models."""
    return missing_keys(config.judge.vlm.models, "judge.vlm") if config.judge.judge == "openai" else []


def run(config: RunConfig, run_dir: Path) -> None:
    """Has every candidate judged; clips that can't be read or judged are listed as skipped."""
    judge = make_judge(config.judge, config.grid, config.seed)
    depends = config.part("seed", "grid") | {
        "judge": judge.name,
        "share": config.judge.share,
        "questions": file_identity(config.judge.questions, "judge.questions"),
    }
    with open_stage(run_dir, "judge", depends, STAGES["judge"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        clips = ClipFolder(run_dir / "generate", config.clip_size)
        rounds = planned_rounds(config, clips.rows)
        work = JudgeClips(config, run_dir, rounds)
        labels = stage.map_batches("judge", clips.rows, _batch_size(config), work, _LABELS_WITH_VOTES)
        stage.check_outage()
        _require_labels(labels, stage)
        if isinstance(judge, TableJudge):
            for clip_id in sorted(judge.clip_ids - {row["clip_id"] for row in clips.rows}):
                stage.skip(clip_id, f"{config.judge.labels} has labels of it and the run no such clip")
        if rounds is not None:
            write_rounds(stage.path / "questions.parquet", rounds)
        stage.write("labels.parquet", labels.drop_columns("votes").cast(LABELS))
        votes = [vote for votes_on_clip in labels.column("votes").to_pylist() for vote in votes_on_clip or ()]
        if votes:
            stage.write("votes.parquet", rows_to_table(votes, VOTES))


def _require_labels(labels: pa.Table, stage: StageFolder) -> None:
    """InputError when not one clip was judged; the next run of the stage tries all of them anew."""
    if len(labels) or not stage.skipped:
        return
    shutil.rmtree(stage.path / "parts")  # else the next run would not try these clips again
    first = stage.skipped[0]
    raise InputError(
        f"not one of {len(stage.skipped)} clips could be judged ({first['item']}: {first['reason']}); mend that, or "
        f"choose another judge, and run the same command again"
    )


def dry_run(config: RunConfig, run_dir: Path) -> None:
    """Prints how many questions the judge would be asked and what they would cost; asks and writes nothing.

    Raises:
        InputError: the clips are not there, or the judge costs nothing.
    """
    if config.judge.judge != "openai":
        raise InputError(f"judge.judge is {config.judge.judge!r}, which costs nothing: --dry-run is for 'openai'")
    make_judge(config.judge, config.grid, config.seed)  # raises what `check` raises before any clip is read
    from halovid.judges.vlm.plan import plan_calls, plan_notes, plan_table

    set_threads(config.threads)
    clips = ClipFolder(run_dir / "generate", config.clip_size)
    unreadable: list[str] = []
    with progress("count", len(clips.rows)) as advance:
        requests = _requests(clips, planned_rounds(config, clips.rows), unreadable, advance)
        plans = plan_calls(config.judge.vlm, config.grid, clips.geometry, requests)
    output = Console()
    output.print(plan_table(plans, config.judge.vlm))
    output.print(plan_notes(plans, config.judge.vlm), highlight=False)
    output.print(f"{len(clips.rows) - len(unreadable)} clips, {len(unreadable)} others can't be read")


def _requests(
    clips: ClipFolder, planned: dict[str, Rounds] | None, unreadable: list[str], advance: Advance
) -> Iterator[Request]:
    """The request for each readable clip, one clip in memory at a time; ids of the others go into `unreadable`."""
    for row in clips.rows:
        _, video = clips.readable([row], lambda clip_id, _: unreadable.append(clip_id))
        if video is not None:
            yield from make_requests([row], video, planned)
        advance()


def _batch_size(config: RunConfig) -> int:
    """How many clips are judged at once: their float pixels are in memory twice, one by one and stacked."""
    frames, height, width = config.clip_size
    return max(1, min(_BATCH, _MEMORY // (2 * 4 * 3 * frames * height * width)))


@dataclass(frozen=True)
class JudgeClips:
    """Work on rows of the clip table: the judge labels each clip, which gives rows of `_LABELS_WITH_VOTES`.

    planned: clip id -> the patches that the judge is asked about; None asks about all patches of all clips.
    """

    config: RunConfig
    run_dir: Path
    planned: dict[str, Rounds] | None

    def open(self) -> Worker[Row]:
        """See `Work.open`."""
        config = self.config
        clips = ClipFolder(self.run_dir / "generate", config.clip_size)
        judge = make_judge(config.judge, config.grid, config.seed)

        def label(batch: Sequence[Row], skip: Skip) -> list[Row]:
            rows, video = clips.readable(batch, skip)
            if video is None:
                return []
            requests = make_requests(rows, video, self.planned)
            labels: list[Row] = []
            for request, answer in zip(requests, judge.judge(requests, clips.geometry), strict=True):
                if isinstance(answer, Refusal):
                    skip(request.clip_id, answer.reason, answer.again)
                else:
                    labels += _labels_with_votes(request, answer, judge.name)
            return labels

        return label


def _labels_with_votes(request: Request, answer: Judgement, judge: str) -> list[Row]:
    """The rows of a clip's labels, without patches that were not asked about; the first row holds the votes."""
    if request.rounds is not None:
        answer = only_asked(answer, request.rounds)
    labels = [row | {"votes": None} for row in label_rows(request.clip_id, answer, judge)]
    labels[0]["votes"] = vote_rows(request.clip_id, answer)
    return labels
