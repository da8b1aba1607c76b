"""Scores any folder of clips with a reward model, without a run.

    halovid score --clips DIR --reward MODEL [--recipe RECIPE.yaml] [--output FILE] [--heatmaps FOLDER]

Prompts come from DIR/prompts.csv (`halovid.formats.folder`) or else from the names of the clips, as in VBench.
The table has a row per clip: clip, prompt, reward, the rating of every aspect, with --heatmaps the
name of its heat map and, in Parquet, the patch rewards.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import torch
from pydantic import ValidationError
from torch import Tensor

from halovid.config.run import GeneratorConfig, RunConfig
from halovid.formats import folder, vbench
from halovid.formats.base import Collection, SourceClip
from halovid.maths.grid import LatentGeometry, PatchGrid, spread_to_frames
from halovid.models import open_model
from halovid.records import Conditioning, PromptBatch, Rewards
from halovid.rewards.backbones import EncoderSpec
from halovid.rewards.network import RewardNetwork, find_reward, load_reward
from halovid.rewards.rewarder import NetworkRewarder
from halovid.rewards.scoring import geometry_of
from halovid.store.errors import InputError
from halovid.store.files import atomic_path
from halovid.store.manifests import read_manifest
from halovid.store.runtime import console, progress, resolve_device, set_threads
from halovid.store.scratch import scratch_folder
from halovid.store.tables import write_table
from halovid.store.video import probe_video, read_video, write_video

Row = dict[str, Any]
WORST, BEST = 1.0, 5.0  # ends of the rating scale: heat maps show WORST as reddest and BEST without red


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A reward network, and what it needs to score any clip.

    conditions: prompt -> its conditioning, one row; empty where the network reads text.
    """

    rewarder: NetworkRewarder
    conditions: dict[str, Conditioning]

    @property
    def geometry(self) -> LatentGeometry:
        """How the network divides time."""
        return geometry_of(self.rewarder.network)

    def rate(self, clip: SourceClip) -> tuple[Rewards, Tensor]:
        """The rewards of a clip, a batch of one, and the clip as the network saw it, [3, F, H, W].

        Raises:
            InputError: the clip can't be read, or it is refused.
        """
        spec = self.rewarder.network.spec.backbone
        fps = probe_video(clip.files[0]).fps
        video = read_video(clip.files[0], (spec.frame_height, spec.frame_width), spec.num_frames)
        prompts = PromptBatch((clip.prompt,), self.conditions.get(clip.prompt), (fps,), self.geometry)
        rewards = self.rewarder.reward(video[None], prompts)
        if refusal := rewards.refusals[0]:
            raise InputError(refusal.reason)
        return rewards, video


def score_folder(
    clips: Path, reward: Path, output: Path, config: RunConfig | None = None, heatmaps: Path | None = None
) -> None:
    """Writes the rewards of a folder's clips to `output`, .csv or .parquet; prints which clips can't be scored.

    Args:
        reward: the folder of a reward model, or a run that has one.
        config: gives the generator and the grid; by default those of the run that holds the reward model.
        heatmaps: a folder for copies of the clips in which bad patches are red.

    Raises:
        InputError: there is no usable clip or reward model, its generator is unknown, or `output` has another suffix.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise InputError(f"the output {output} must be a .csv or .parquet file")
    collection = folder.read(clips) if (clips / folder.TABLE).is_file() else vbench.read(clips)
    if not collection.clips:
        reasons = [reason for _, reason in collection.skipped]
        raise InputError(f"{clips} holds no clip with a usable prompt ({reasons[0] if reasons else 'it is empty'})")
    _check_targets(clips, output, heatmaps)
    scorer = _make_scorer(reward, config, sorted({clip.prompt for clip in collection.clips.values()}))
    rows = _score_clips(collection, scorer, heatmaps)
    for item, reason in collection.skipped:
        console.print(f"left out: {item}: {reason}", style="yellow", highlight=False, soft_wrap=True)
    if not rows:
        raise InputError(f"none of {len(collection.clips)} clips of {clips} could be scored")
    _write_table(output, rows)
    console.print(f"{len(rows)} clips scored, {len(collection.skipped)} left out: {output}", soft_wrap=True)


def _score_clips(collection: Collection, scorer: Scorer, heatmaps: Path | None) -> list[Row]:
    """The output row of every clip that can be scored; the others are added to the collection's skipped items."""
    rows: list[Row] = []
    clip_ids = collection.clip_ids()
    with progress("score", len(collection.clips)) as advance, contextlib.ExitStack() as stack:
        # built apart and then moved, so that a kill leaves no half-written clip in the folder
        unfinished = stack.enter_context(scratch_folder(heatmaps / "heatmaps")) if heatmaps is not None else None
        for name, clip in collection.clips.items():
            try:
                rewards, video = scorer.rate(clip)
            except InputError as error:
                collection.skip(name, str(error))
            else:
                row = _output_row(clip, rewards)
                if unfinished is not None and heatmaps is not None:
                    heatmap = unfinished / f"{clip_ids[name]}.mp4"
                    _write_heatmap(heatmap, clip, rewards.patches[0], scorer.geometry, video)
                    heatmap.replace(heatmaps / heatmap.name)
                    row["heatmap"] = heatmap.name
                rows.append(row)
            advance()
    return rows


def _check_targets(clips: Path, output: Path, heatmaps: Path | None) -> None:
    """Raises InputError when a result would replace a clip or its prompts, or can't be written."""
    if output.resolve() in ((clips / name).resolve() for name in (folder.TABLE, vbench.PROMPTS)):
        raise InputError(f"the output {output} would replace the prompts of the clips; choose another name")
    if heatmaps is not None and heatmaps.resolve() == clips.resolve():
        raise InputError(f"heat maps in {heatmaps} would replace the clips themselves; choose another folder")
    try:
        if output.is_dir():
            raise InputError(f"the output {output} is a folder; name a .csv or .parquet file")
        for parent in (output.parent, *([heatmaps] if heatmaps else [])):
            parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't write to {error.filename}: {error.strerror}") from error


def _make_scorer(reward: Path, config: RunConfig | None, prompts: list[str]) -> Scorer:
    """The scorer of a reward model, with all prompts encoded."""
    model = find_reward(reward.resolve())
    network = load_reward(model)
    config = config or _config_of_run(model)
    set_threads(config.threads)
    rewarder, conditions = NetworkRewarder(network.to(resolve_device(config.device)), config.grid), {}
    if rewarder.needs_conditioning:
        generator = open_model(config, {"text"})
        conditions = {prompt: generator.encode_prompts([prompt]).to("cpu") for prompt in prompts}
        _check_width(conditions[prompts[0]].text_states().shape[-1], network, model, config)
    return Scorer(rewarder, conditions)


def _check_width(width: int, network: RewardNetwork, model: Path, config: RunConfig) -> None:
    """Raises InputError when text conditions are not as wide as those that the reward model was trained with."""
    spec = network.spec.backbone
    if isinstance(spec, EncoderSpec) and width != spec.prompt_width:
        raise InputError(
            f"the reward model {model} was trained with text conditions {spec.prompt_width} wide, those of "
            f"generator {config.generator.model!r} are {width} wide; name the recipe it was trained with by --recipe"
        )


def _config_of_run(model: Path) -> RunConfig:
    """A configuration with generator and grid of the run that holds a reward model; InputError if there is none."""
    generate_manifest, reward_manifest = read_manifest(model.parent / "generate"), read_manifest(model)
    try:
        assert generate_manifest is not None and reward_manifest is not None
        return RunConfig(
            generator=GeneratorConfig.model_validate(generate_manifest["config"]["generator"]),
            grid=PatchGrid(**reward_manifest["config"]["grid"]),
        )
    except (AssertionError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"nothing beside {model} tells which generator encodes its prompts; name the recipe it was trained with by "
            f"--recipe"
        ) from error


def _output_row(clip: SourceClip, rewards: Rewards) -> Row:
    """The output row of one clip."""
    return (
        {"clip": clip.name, "prompt": clip.prompt, "reward": rewards.clip.item()}
        | {aspect: rating.clip.item() for aspect, rating in rewards.ratings.items()}
        | {"patch_rewards": rewards.patches.flatten().tolist()}
    )


def _write_table(path: Path, rows: list[Row]) -> None:
    """Writes the rows as Parquet, or as CSV without the patch rewards."""
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        write_table(path, table)
    else:
        with atomic_path(path) as temporary:
            pyarrow.csv.write_csv(table.drop_columns("patch_rewards"), temporary)


def _write_heatmap(path: Path, clip: SourceClip, patches: Tensor, geometry: LatentGeometry, video: Tensor) -> None:
    """Writes the clip as the model saw it, redder where patches are worse; patches [t, h, w], video [3, F, H, W]."""
    badness = ((BEST - patches) / (BEST - WORST)).clamp(0, 1)
    frames = spread_to_frames(badness, video.shape[1], geometry)
    opacity = 0.6 * torch.nn.functional.interpolate(frames[None], video.shape[2:], mode="nearest")[0]
    red = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1, 1)
    seconds = _seconds(clip.files[0])
    write_video(path, video * (1 - opacity) + red * opacity, video.shape[1] / seconds)


def _seconds(path: Path) -> float:
    """The duration of a clip in seconds."""
    info = probe_video(path)
    return info.num_frames / info.fps
