"""Rewards of any folder of clips, without a run.

    halovid score --clips DIR --reward MODEL [--recipe RECIPE.yaml] [--output FILE] [--heatmaps FOLDER]

Prompts come from DIR/prompts.csv (`halovid.formats.folder`) or else from the names of the clips, as VBench has them.
The table has a row per clip: clip, prompt, reward, the rating of every aspect and, in Parquet, the patch rewards.
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
from halovid.rewards.network import RewardNetwork, load_reward
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
WORST, BEST = 1.0, 5.0  # the rating scale: what heat maps show as wholly red, and as untouched


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
    """Writes the rewards of a folder's clips to `output`, .csv or .parquet; clips that can't be scored are told.

    Args:
        reward: the folder of a reward model, or a run that has one.
        config: names generator and grid where they are not told by the run that the reward model lies in.
        heatmaps: a folder for clips in which bad patches are red.

    Raises:
        InputError: there is no clip, no reward model, or nothing tells its generator; the kind of output is unknown.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise InputError(f"the output {output} must be a .csv or .parquet file")
    found = folder.read(clips) if (clips / folder.TABLE).is_file() else vbench.read(clips)
    if not found.clips:
        reasons = [reason for _, reason in found.skipped]
        raise InputError(f"{clips} holds no clip with a usable prompt ({reasons[0] if reasons else 'it is empty'})")
    _check_targets(clips, output, heatmaps)
    scorer = _make_scorer(reward, config, sorted({clip.prompt for clip in found.clips.values()}))
    rows = _score_clips(found, scorer, heatmaps)
    for item, reason in found.skipped:
        console.print(f"left out: {item}: {reason}", style="yellow", highlight=False, soft_wrap=True)
    if not rows:
        raise InputError(f"none of {len(found.clips)} clips of {clips} could be scored")
    _write_table(output, rows)
    console.print(f"{len(rows)} clips scored, {len(found.skipped)} left out: {output}", soft_wrap=True)


def _score_clips(found: Collection, scorer: Scorer, heatmaps: Path | None) -> list[Row]:
    """A row of the output for every clip that can be scored; the others are noted as skipped."""
    rows: list[Row] = []
    clip_ids = found.clip_ids()
    with progress("score", len(found.clips)) as advance, contextlib.ExitStack() as stack:
        # built apart and moved into the folder, as a kill would leave half a clip there
        unfinished = stack.enter_context(scratch_folder(heatmaps / "heatmaps")) if heatmaps is not None else None
        for name, clip in found.clips.items():
            try:
                rewards, video = scorer.rate(clip)
                rows.append(_row(clip, rewards))
            except InputError as error:
                found.skip(name, str(error))
            else:
                if unfinished is not None and heatmaps is not None:
                    heatmap = unfinished / f"{clip_ids[name]}.mp4"
                    _write_heatmap(heatmap, clip, rewards.patches[0], scorer.geometry, video)
                    heatmap.replace(heatmaps / heatmap.name)
            advance()
    return rows


def _check_targets(clips: Path, output: Path, heatmaps: Path | None) -> None:
    """InputError when a result would take the place of something that is there, or can't be written."""
    if output.resolve() in ((clips / name).resolve() for name in (folder.TABLE, vbench.PROMPTS)):
        raise InputError(f"the output {output} would replace the prompts of the clips; choose another name")
    if heatmaps is not None and heatmaps.resolve() == clips.resolve():
        raise InputError(f"heat maps in {heatmaps} would replace the clips themselves; choose another folder")
    try:
        if output.is_dir():
            raise InputError(f"the output {output} is a folder; name a .csv or .parquet file")
        for needed in (output.parent, *([heatmaps] if heatmaps else [])):
            needed.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't write to {error.filename}: {error.strerror}") from error


def _make_scorer(reward: Path, config: RunConfig | None, prompts: list[str]) -> Scorer:
    """The scorer, with all prompts encoded."""
    reward = reward.resolve()
    model = reward / "reward" if (reward / "reward" / "reward.json").is_file() else reward
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
    """InputError when the text conditions are not those of the generator that the reward model was trained with."""
    spec = network.spec.backbone
    if isinstance(spec, EncoderSpec) and width != spec.prompt_width:
        raise InputError(
            f"the reward model {model} was trained with text conditions {spec.prompt_width} wide, those of "
            f"generator {config.generator.model!r} are {width} wide; name the recipe it was trained with by --recipe"
        )


def _config_of_run(model: Path) -> RunConfig:
    """Generator and grid of the run that a reward model lies in."""
    generated, trained = read_manifest(model.parent / "generate"), read_manifest(model)
    try:
        assert generated is not None and trained is not None
        return RunConfig(
            generator=GeneratorConfig.model_validate(generated["config"]["generator"]),
            grid=PatchGrid(**trained["config"]["grid"]),
        )
    except (AssertionError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"nothing beside {model} tells which generator encodes its prompts; name the recipe it was trained with by "
            f"--recipe"
        ) from error


def _row(clip: SourceClip, rewards: Rewards) -> Row:
    """A row of the output, of the rewards of one clip."""
    return (
        {"clip": clip.name, "prompt": clip.prompt, "reward": rewards.clip.item()}
        | {aspect: rated.clip.item() for aspect, rated in rewards.ratings.items()}
        | {"patch_rewards": rewards.patches.flatten().tolist()}
    )


def _write_table(path: Path, rows: list[Row]) -> None:
    """Writes the rows; a CSV has no patch rewards."""
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        write_table(path, table)
    else:
        with atomic_path(path) as temporary:
            pyarrow.csv.write_csv(table.drop_columns("patch_rewards"), temporary)


def _write_heatmap(path: Path, clip: SourceClip, patches: Tensor, geometry: LatentGeometry, video: Tensor) -> None:
    """The clip as the model saw it, redder the worse a patch is; patches [t, h, w], video [3, F, H, W]."""
    badness = ((BEST - patches) / (BEST - WORST)).clamp(0, 1)
    frames = spread_to_frames(badness, video.shape[1], geometry)
    cover = 0.6 * torch.nn.functional.interpolate(frames[None], video.shape[2:], mode="nearest")[0]
    red = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1, 1)
    seconds = _seconds(clip.files[0])
    write_video(path, video * (1 - cover) + red * cover, video.shape[1] / seconds)


def _seconds(path: Path) -> float:
    """How long a clip lasts."""
    info = probe_video(path)
    return info.num_frames / info.fps
