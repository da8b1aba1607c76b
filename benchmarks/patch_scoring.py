"""Patch rewards from one dense pass against crops: agreement with the truth, and CPU seconds per clip.

python benchmarks/patch_scoring.py [--clips 240] [--steps 90] [--crop-clips 6] [--backbones conv qwen_vl]

Rendered clips of the embedded world, rated by its inspector, train a reward model of each backbone, which then scores
clips that it has not seen: densely; by crops enlarged to the size of the clip, in batches and one by one; and by crops
at their own size in one batch, the cheapest way to score crops. The language model is a tiny Qwen2.5-VL with random
weights, so its agreement says only that both ways of scoring work; its times are what it is here for.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from halovid.config.reward import RewardConfig
from halovid.maths import statistics
from halovid.maths.grid import PatchGrid, pool_cells
from halovid.records import DEFECT_RATING, Judgement, Request
from halovid.rewards.backbones import LanguageSpec, make_spec
from halovid.rewards.data import LabelledClips
from halovid.rewards.network import RewardNetwork, RewardSpec
from halovid.rewards.scoring import crop_patches, geometry_of, score_crop, score_dense
from halovid.rewards.training import train_reward
from halovid.store.runtime import progress
from halovid.world.inspector import GEOMETRY
from halovid.world.judge import InspectorJudge
from halovid.world_training.clips import render_training_clip
from halovid.world_training.generator import build_tokenizer
from halovid.world_training.plans import PLANS

GRID = PatchGrid(4, 4, 4)
GRIDS = (PatchGrid(4, 2, 2), GRID)
SIZE = (13, 64, 64)
ASPECTS = ("visual_quality", "temporal_consistency")
FIRST_SEED = 20_000_000  # no clip of any training of the packaged world
QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
Scorer = Callable[[RewardNetwork, Tensor, Tensor, PatchGrid], Any]


def main() -> None:
    """Prints one line per backbone, grid and way of scoring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--steps", type=int, default=90, help="of training, a quarter of them on clips alone")
    parser.add_argument("--crop-clips", type=int, default=6, help="clips on which both ways are held against the truth")
    parser.add_argument("--backbones", nargs="+", default=["conv", "qwen_vl"], choices=["conv", "qwen_vl"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    video, captions, clip_ratings, patch_ratings = rated_clips(options.clips)
    held_out = torch.arange(options.clips) % 5 == 0
    with tempfile.TemporaryDirectory() as name:
        for backbone in options.backbones:
            network, config = make_network(backbone, Path(name), options.steps)
            prompts = prompts_of(network, captions)
            data = LabelledClips(video.half(), prompts, torch.arange(options.clips), clip_ratings, patch_ratings)
            network.start_heads(data.subset(~held_out).clip_ratings)
            train_reward(network, data.subset(~held_out), config, 0, Path(name))
            network.eval().requires_grad_(False)
            report(backbone, network, data.subset(held_out), options.crop_clips)


def rated_clips(count: int) -> tuple[Tensor, list[str], Tensor, Tensor]:
    """Clips [n, 3, F, H, W], captions, true ratings of clips [n, aspects] and patches [n, aspects, t, h, w]."""
    plan = PLANS["plain"]
    pixels, captions = zip(*(render_training_clip(plan, FIRST_SEED + i) for i in range(count)), strict=True)
    video = torch.stack(pixels).float() / 127.5 - 1
    clips, patches = [], []
    with progress("inspect", count) as advance:
        for first in range(0, count, 16):
            part = range(first, min(first + 16, count))
            requests = [Request(video[i], captions[i], str(i)) for i in part]
            for answer in InspectorJudge(GRID).judge(requests, GEOMETRY):
                assert isinstance(answer, Judgement)
                clips.append([answer.clip[aspect] for aspect in ASPECTS])
                patches.append(torch.stack([answer.patches[aspect] for aspect in ASPECTS]))
                advance()
    return video, list(captions), torch.tensor(clips), torch.stack(patches).float()


def make_network(backbone: str, folder: Path, steps: int) -> tuple[RewardNetwork, RewardConfig]:
    """A network before its training, and the settings of that."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"backbone": backbone, "aspects": ASPECTS, "patch_aspects": ASPECTS}
    settings |= {"video_steps": steps // 4, "patch_steps": steps - steps // 4}
    if backbone == "qwen_vl":
        settings |= {"model": str(write_qwen(folder)), "learning_rate": 2e-3, "batch_size": 4, "crops": 2}
    config = RewardConfig.model_validate(settings)
    spec = make_spec(config, SIZE, GEOMETRY, 8.0, 8, "float32")
    return RewardNetwork(RewardSpec(backbone=spec, aspects=ASPECTS, patch_aspects=ASPECTS)), config


def write_qwen(folder: Path) -> Path:
    """A tiny Qwen2.5-VL with random weights, 1.1 million in all, in the layout of the hub."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_TOKENS)})
    ids = dict(zip(QWEN_TOKENS, tokenizer.convert_tokens_to_ids(list(QWEN_TOKENS)), strict=True))
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
    }
    text |= {"bos_token_id": 0, "eos_token_id": 0}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]}}
    vision = {"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128, "out_hidden_size": 96}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision | {"fullatt_block_indexes": [1], "window_size": 112},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder / "qwen")
    tokenizer.save_pretrained(folder / "qwen")
    return folder / "qwen"


def prompts_of(network: RewardNetwork, captions: list[str]) -> Tensor:
    """Captions as token ids; empty prompts for a backbone that reads text conditions, which here are not made."""
    if network.backbone.reads_text:
        return network.backbone.tokenize(captions)
    return torch.zeros(len(captions), 1, 8)


def report(backbone: str, network: RewardNetwork, data: LabelledClips, crop_clips: int) -> None:
    """Prints agreement and seconds of every way of scoring, and the dense agreement on all clips that were held out."""
    video, prompts = data.inputs(torch.device("cpu"))
    for grid in GRIDS:
        dense = seconds(score_dense, network, video, prompts, grid)
        print_line(backbone, grid, "dense, all clips", dense, 1, agreement(score_dense, network, data, grid, len(data)))
        scorers: dict[str, tuple[Scorer, str]] = {
            "dense": (score_dense, agreement(score_dense, network, data, grid, crop_clips)),
            "crops, batched": (score_crop, agreement(score_crop, network, data, grid, crop_clips)),
            "crops, one by one": (score_singly, ""),  # the same ratings
            "crops, own size": (score_natively(native_network(network, grid)), ""),  # not what it was trained on
        }
        for name, (scorer, agrees) in scorers.items():
            own = seconds(scorer, network, video, prompts, grid)
            print_line(backbone, grid, name, own, own / dense, agrees)


def score_singly(network: RewardNetwork, video: Tensor, prompts: Tensor, grid: PatchGrid) -> None:
    """Whole clip, then every patch enlarged to the size of the clip, one pass each."""
    network.rate_videos(network.features(video, prompts))
    for index in range(grid.num_patches):
        crop = crop_patches(video[0], grid, geometry_of(network), only=index)
        network.rate_videos(network.features(crop, prompts))


def native_network(network: RewardNetwork, grid: PatchGrid) -> RewardNetwork:
    """The same weights for clips of the size of a patch of the grid: one latent frame."""
    spec = network.spec.backbone
    small: dict[str, Any] = {"num_frames": 4, "causal_first_frame": False}
    small |= {"frame_height": SIZE[1] // grid.h, "frame_width": SIZE[2] // grid.w}
    if isinstance(spec, LanguageSpec):
        small |= {"frames": 4, "input_height": spec.input_height // grid.h, "input_width": spec.input_width // grid.w}
    native = RewardNetwork(network.spec.model_copy(update={"backbone": spec.model_copy(update=small)}))
    native.load_state_dict(network.state_dict())
    return native.eval().requires_grad_(False)


def score_natively(native: RewardNetwork) -> Scorer:
    """Whole clip, then all patches at their own size in one batch."""

    def score(network: RewardNetwork, video: Tensor, prompts: Tensor, grid: PatchGrid) -> None:
        network.rate_videos(network.features(video, prompts))
        padded = torch.cat([video[:, :, :1].expand(-1, -1, 3, -1, -1), video], 2)[0]
        cells = padded.unflatten(3, (grid.w, -1)).unflatten(2, (grid.h, -1)).unflatten(1, (grid.t, -1))
        crops = cells.permute(1, 3, 5, 0, 2, 4, 6).flatten(0, 2)
        own = native.backbone.tokenize([""]) if native.backbone.reads_text else prompts
        native.rate_videos(native.features(crops, own.expand(len(crops), *own.shape[1:])))

    return score


def seconds(scorer: Scorer, network: RewardNetwork, video: Tensor, prompts: Tensor, grid: PatchGrid) -> float:
    """CPU seconds of one clip, the least of three."""
    taken = []
    with torch.inference_mode():
        for clip in range(3):
            started = time.process_time()
            scorer(network, video[clip : clip + 1], prompts[clip : clip + 1], grid)
            taken.append(time.process_time() - started)
    return min(taken)


def agreement(scorer: Scorer, network: RewardNetwork, data: LabelledClips, grid: PatchGrid, clips: int) -> str:
    """Spearman and AUROC of defective patches, of the first aspect, on the first clips."""
    video, prompts = data.subset(torch.arange(clips)).inputs(torch.device("cpu"))
    with torch.inference_mode():
        rated = torch.cat([scorer(network, video[i : i + 1], prompts[i : i + 1], grid)[1] for i in range(clips)])
    truth = pool_cells(data.patch_ratings[:clips], grid)
    scores, true = rated[:, 0].numpy().ravel(), truth[:, 0].numpy().ravel()
    auroc = statistics.auroc(-scores, np.asarray(true < DEFECT_RATING))
    return f"spearman {statistics.spearman(scores, true):.3f}  auroc {auroc:.3f}  ({clips} clips)"


def print_line(backbone: str, grid: PatchGrid, name: str, own: float, ratio: float, agree: str) -> None:
    """One line of the result."""
    print(f"{backbone:<8} P={grid.num_patches:<3} {name:<18} {own:8.3f} s  {ratio:6.1f}x  {agree}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
