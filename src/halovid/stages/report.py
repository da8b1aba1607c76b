"""report: the results of all stages -> one self-contained HTML file.

    halovid report RECIPE.yaml RUN

Reads RUN/evaluate and RUN/baseline, as far as the run has them RUN/examine, RUN/repair and the training logs in
RUN/reward and RUN/align, and the manifest of every stage; writes RUN/report/report.html.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from halovid.clips.folder import ClipFolder, Row
from halovid.config.run import RunConfig
from halovid.config.sections import result_settings
from halovid.maths.grid import PatchGrid, spread_to_frames
from halovid.measuring.headline import sample_size, verdict
from halovid.measuring.instruments import MEASURES
from halovid.pages import charts, report_page
from halovid.records import Refusal
from halovid.rewards.rewarder import Rewarder, open_rewarder, rewarder_identity
from halovid.stages import STAGES, required_stages
from halovid.store.errors import InputError
from halovid.store.files import write_text
from halovid.store.folders import open_stage
from halovid.store.manifests import read_log, read_manifest, versions
from halovid.store.tables import AGREEMENT, METRICS, REPAIRS, read_table
from halovid.store.tables import MEASURES as MEASURES_TABLE
from halovid.store.video import PICTURE_SUFFIX, encode_png, read_facts, read_video

_ALIGNMENT_CURVES = {  # title -> label of the axis, pattern of the metrics in the log that are drawn
    "Alignment loss": ("loss", "loss/*"),
    "Alignment accuracies": ("share", "rewards/*accuracies"),
    "Error against the reference": ("squared error", "errors/*"),
}
_PICTURE_SIDE = 512  # pixels: a clip has about that much room on the page, which holds all files in itself
_SMOOTHING = 20  # lines of the log that are averaged for a point of a curve


def run(config: RunConfig, run_dir: Path) -> None:
    """Writes the report."""
    depends = result_settings(config) | {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "report", depends, STAGES["report"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        evaluated, stages = run_dir / "evaluate", required_stages(config)
        metrics = read_table(evaluated / "metrics.parquet", METRICS).to_pylist()
        content = report_page.PageContent(
            title=config.report.title,
            subtitle=f"{config.generator.model}, {config.align.method}, {config.align.steps} steps",
            verdict=verdict(metrics, read_table(evaluated / "measures.parquet", MEASURES_TABLE)),
            metrics=[_metric_row(row) for row in metrics if not MEASURES[row["measure"]].defect_kind],
            clips=_clip_pairs(config, run_dir, stage.skip),
            repaired=_repaired_pairs(config, run_dir) if "repair" in stages else [],
            kinds=[_kind_row(row) for row in metrics if MEASURES[row["measure"]].defect_kind],
            agreement=_agreement(run_dir) if "examine" in stages else [],
            curves=_curves(run_dir, stages),
            skipped=_skipped(config, run_dir, stage.skipped),
            config_yaml=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
            versions=versions(),
        )
        write_text(stage.path / "report.html", report_page.render_page(content))


def _metric_row(row: Row) -> report_page.MetricRow:
    counts_and_id = ("measure", "prompts", "base_clips", "aligned_clips")
    values = {key: value for key, value in row.items() if key not in counts_and_id}
    return report_page.MetricRow(name=MEASURES[row["measure"]].title, sample_size=sample_size(row), **values)


def _kind_row(row: Row) -> charts.KindRow:
    kind = str(MEASURES[row["measure"]].defect_kind)
    return charts.KindRow(kind=kind, base=row["base"] / 100, aligned=row["aligned"] / 100)


def _agreement(run_dir: Path) -> list[report_page.AgreementRow]:
    rows = read_table(run_dir / "examine" / "agreement.parquet", AGREEMENT).to_pylist()
    return [
        report_page.AgreementRow(
            name=f"{row['scope']}: {row['aspect'].replace('_', ' ')}",
            scoring=row["scoring"],
            spearman=row["spearman"],
            kendall=row["kendall"],
            auroc=row["auroc"],
        )
        for row in rows
    ]


def _clip_pairs(config: RunConfig, run_dir: Path, skip: Callable[[str, str, bool], None]) -> list[report_page.ClipPair]:
    """The first clip of each of the first `report.clips` prompts by both models, with its patch rewards.

    A clip that one model's rewards are missing of is left out, and `skip` is called for it.
    """
    base, aligned = (ClipFolder(run_dir / stage, config.scored_size) for stage in ("baseline", "evaluate"))
    aligned_rows = {row["clip_id"]: row for row in aligned.rows}
    base_rows = [rows[0] for rows in base.by_prompt.values()][: config.report.clips]
    rewarder = open_rewarder(config, run_dir) if config.has_rewarder else None
    pairs = []
    for row in base_rows:
        aligned_row = aligned_rows[row["clip_id"]]
        base_rewards = _patch_rewards(rewarder, base, row, config.grid)
        aligned_rewards = _patch_rewards(rewarder, aligned, aligned_row, config.grid)
        if isinstance(base_rewards, Refusal) or isinstance(aligned_rewards, Refusal):
            for refusal in (base_rewards, aligned_rewards):
                if isinstance(refusal, Refusal):
                    skip(row["clip_id"], refusal.reason, refusal.again)
            continue
        pairs.append(_clip_pair((base, row, base_rewards), (aligned, aligned_row, aligned_rewards), config))
    return pairs


def _repaired_pairs(config: RunConfig, run_dir: Path) -> list[report_page.ClipPair]:
    """Half as many clips as of the models, before and after their repair: the first that a repair has changed."""
    candidates, repaired = (ClipFolder(run_dir / stage, config.clip_size) for stage in ("generate", "repair"))
    candidate_rows = {row["clip_id"]: row for row in candidates.rows}
    rounds: dict[str, list[Row]] = {}
    for done in read_table(run_dir / "repair" / "repairs.parquet", REPAIRS).to_pylist():
        rounds.setdefault(done["clip_id"], []).append(done)
    changed = [row for row in repaired.rows if any(done["accepted"] for done in rounds[row["clip_id"]])]
    pairs = []
    for row in changed[: config.report.clips // 2]:
        before, after = rounds[row["clip_id"]][0], rounds[row["clip_id"]][-1]
        rewards = [
            torch.tensor(done["patch_rewards"]).unflatten(0, config.grid.shape).tolist() for done in (before, after)
        ]
        original = candidate_rows[before["original"]]
        pairs.append(_clip_pair((candidates, original, rewards[0]), (repaired, row, rewards[1]), config))
    return pairs


_ShownClip = tuple[ClipFolder, Row, report_page.PatchRewards]  # the clip's folder, its row there, its rewards


def _clip_pair(first: _ShownClip, second: _ShownClip, config: RunConfig) -> report_page.ClipPair:
    """Two clips of one prompt, side by side."""
    patch_index = torch.arange(float(config.grid.t))[:, None, None]
    frames = spread_to_frames(patch_index, config.generator.num_frames, first[0].geometry)
    return report_page.ClipPair(
        prompt=first[1]["prompt"],
        seed=first[1]["seed"],
        base_file=_shown_file(first[0].folder / first[1]["video"]),
        aligned_file=_shown_file(second[0].folder / second[1]["video"]),
        base_rewards=first[2],
        aligned_rewards=second[2],
        frame_to_patch=frames.round().long().flatten().tolist(),
        num_frames=config.generator.num_frames,
        fps=config.generator.fps,
    )


def _shown_file(path: Path) -> bytes:
    """A clip's file as the page holds it: pictures are reduced by a whole factor to what the page has room for."""
    if path.suffix != PICTURE_SUFFIX:
        return path.read_bytes()
    facts = read_facts(path)
    factor = math.ceil(max(facts.height, facts.width) / _PICTURE_SIDE)
    picture = read_video(path, (facts.height // factor, facts.width // factor))[:, 0]
    return encode_png(((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def _patch_rewards(
    rewarder: Rewarder | None, clips: ClipFolder, row: Row, grid: PatchGrid
) -> report_page.PatchRewards | Refusal:
    """The rewards of a clip's patches as lists [t][h][w], all NaN without a rewarder; or why the clip has none."""
    if rewarder is None:
        return torch.full(grid.shape, torch.nan).tolist()
    try:
        video = clips.video(row)[None]
    except InputError as error:
        return Refusal(str(error))
    rewards = rewarder.reward(video, clips.prompt_batch([row], rewarder.needs_conditioning))
    return rewards.refusals[0] or rewards.patches[0].tolist()


def _curves(run_dir: Path, stages: Sequence[str]) -> list[charts.Curve]:
    """How rewards rose in the stage `repair`, and the training curves of `reward` and `align`: those among `stages`."""
    curves = []
    if "repair" in stages:
        curves.append(charts.Curve("Repair", "denoiser calls a clip", "reward", {"mean": _repair_curve(run_dir)}))
    if "reward" in stages:
        log = read_log(run_dir, "reward")
        losses = {name: _smooth(log, name, 1) for name in sorted({name for line in log for name in line} - {"step"})}
        curves.append(charts.Curve("Reward model", "step", "squared error", losses))
    if "align" in stages:
        log = read_log(run_dir, "align")
        logged = sorted({name for line in log for name in line})
        for title, (label, pattern) in _ALIGNMENT_CURVES.items():
            series = {name: _smooth(log, name) for name in fnmatch.filter(logged, pattern)}
            curves += [charts.Curve(title, "step", label, series)] if series else []
    return curves


def _repair_curve(run_dir: Path) -> list[tuple[float, float]]:
    """The points (denoiser calls, reward) after each round of repair, both as means over all clips."""
    rounds = read_table(run_dir / "repair" / "repairs.parquet", REPAIRS).to_pylist()
    rewards: dict[str, float] = {}  # of each clip so far: one that needs no further round keeps its reward
    calls, points = 0, []
    for number in range(max((done["round"] for done in rounds), default=-1) + 1):
        of_round = [done for done in rounds if done["round"] == number]
        rewards |= {done["clip_id"]: done["reward"] for done in of_round}
        calls += sum(done["denoiser_calls"] for done in of_round)
        points.append((calls / len(rewards), float(np.mean(list(rewards.values())))))
    return points


def _smooth(log: list[Row], name: str, width: int = _SMOOTHING) -> list[tuple[float, float]]:
    """The points (step, value) of a curve: means over every `width` lines of the log, at the step of the last one."""
    lines = [line for line in log if name in line]
    groups = [lines[first : first + width] for first in range(0, len(lines), width)]
    return [(group[-1]["step"], float(np.mean([line[name] for line in group]))) for group in groups]


def _skipped(config: RunConfig, run_dir: Path, skipped_by_report: list[dict[str, str]]) -> list[str]:
    """Every item that a stage of the run skipped, and why, a line for each.

    Args:
        skipped_by_report: what this stage has skipped, which is in no manifest yet.
    """
    earlier_stages = [name for name in required_stages(config) if name != "report"]
    skipped = {name: (read_manifest(run_dir / name) or {}).get("skipped", []) for name in earlier_stages}
    skipped["report"] = skipped_by_report
    return [f"{name}: {entry['item']}: {entry['reason']}" for name, entries in skipped.items() for entry in entries]
