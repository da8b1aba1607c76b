"""reward: judged clips -> reward model.

    halovid reward RECIPE.yaml RUN

Reads RUN/generate and RUN/judge. The first phase trains on clip labels; the second continues the same network on patch
labels and keeps the loss on clip labels. Writes RUN/reward: reward.safetensors and reward.json, log.jsonl, and
agreement.parquet: how well the model agrees with the judge on prompts that it was not trained on.
"""

from __future__ import annotations

from pathlib import Path

import torch

from halovid.clips.folder import ClipFolder, Row
from halovid.config.run import RunConfig
from halovid.maths.seeds import clip_seed
from halovid.records import DEFECT_RATING
from halovid.rewards.agreement import agreement_rows
from halovid.rewards.backbones import AnySpec, make_denoiser_spec, make_spec
from halovid.rewards.data import load_labelled
from halovid.rewards.hidden_states import HiddenStateReader, open_reader
from halovid.rewards.network import RewardNetwork, RewardSpec, continue_reward, save_reward
from halovid.rewards.pretrained import check_model, model_identity
from halovid.rewards.training import train_reward
from halovid.stages import STAGES
from halovid.store.errors import InputError
from halovid.store.files import hash_folder
from halovid.store.folders import open_stage
from halovid.store.runtime import resolve_device, resolve_dtype
from halovid.store.tables import AGREEMENT, LABELS, read_table, rows_to_table


def check(config: RunConfig) -> None:
    """Raises InputError when there is no model to start from where the recipe names one."""
    start = config.reward.start
    if start and not start.is_dir():
        raise InputError(f"reward.start is {str(start)!r}: give a folder that `halovid reward` wrote")
    if config.reward.model:
        check_model(config.reward.model)


def run(config: RunConfig, run_dir: Path) -> None:
    """Trains the reward model and measures it on held-out prompts."""
    check(config)
    start = config.reward.start
    depends = config.part("seed", "dtype", "grid", "reward") | {
        "model": model_identity(config.reward.model),
        "start": hash_folder(start) if start else None,
    }
    with open_stage(run_dir, "reward", depends, STAGES["reward"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        clips = ClipFolder(run_dir / "generate", config.reward_size)
        labels = read_table(run_dir / "judge" / "labels.parquet", LABELS)
        reward = config.reward
        device = resolve_device(config.device)
        torch.manual_seed(config.reward_seed)
        reader = open_reader(config) if reward.backbone == "denoiser" else None
        spec = _spec(config, clips, device, reader)
        network = (continue_reward(start, spec) if start else RewardNetwork(spec)).to(device)
        data, rows = load_labelled(
            clips, labels, reward.aspects, reward.patch_aspects, config.grid, stage.skip, network.backbone, reader
        )
        if reward.patch_steps and not data.rated_by_patch:
            raise InputError(
                f"the labels rate no patch, and reward.patch_steps is {reward.patch_steps}: set it to 0 to learn from "
                f"the ratings of clips alone, or have the patches judged"
            )
        held_out = held_out_clips(rows, reward.held_out, config.seed)
        if not start:
            network.start_heads(data.subset(~held_out).clip_ratings)
        train_reward(network, data.subset(~held_out), reward, config.reward_seed, stage.path)
        network.eval()
        save_reward(network, stage.path)
        agreement = agreement_rows(
            network, data.subset(held_out), "dense", config.grid, DEFECT_RATING, config.score.batch_size
        )
        stage.write("agreement.parquet", rows_to_table(agreement, AGREEMENT))


def held_out_clips(rows: list[Row], share: float, seed: int) -> torch.Tensor:
    """Which of n clips are held out, [n] bool: all clips of `share` of the prompts, at least one and not all.

    Raises:
        InputError: there are clips of fewer than two prompts.
    """
    prompt_ids = sorted({row["prompt_id"] for row in rows}, key=lambda name: clip_seed(seed, name, -1))
    if len(prompt_ids) < 2:
        raise InputError(f"the reward model needs judged clips of at least 2 prompts, found {len(prompt_ids)}")
    held_out = set(prompt_ids[: min(max(1, round(len(prompt_ids) * share)), len(prompt_ids) - 1)])
    return torch.tensor([row["prompt_id"] in held_out for row in rows])


def _spec(config: RunConfig, clips: ClipFolder, device: torch.device, reader: HiddenStateReader | None) -> RewardSpec:
    """What the network is built from: its settings, the strides of the generator, and the width of its states."""
    if not clips.rows:
        raise InputError("there is no clip to learn from; run `halovid generate` with prompts that it can sample")
    first = clips.rows[0]
    conditioning = clips.conditioning([first["prompt_id"]])
    size, geometry = config.reward_size, clips.geometry
    backbone: AnySpec
    if reader is None:
        dtype = str(resolve_dtype(config.dtype, device)).removeprefix("torch.")
        width = conditioning.text_states().shape[-1]
        backbone = make_spec(config.reward, size, geometry, first["fps"], width, dtype)
    else:
        states = reader.count_states(conditioning)
        backbone = make_denoiser_spec(config.reward, size, geometry, states, reader.block)
    return RewardSpec(backbone=backbone, aspects=config.reward.aspects, patch_aspects=config.reward.patch_aspects)
