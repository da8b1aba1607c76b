"""Training clips: rendered once, kept in shards, read in boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from halovid.world.captions import parse_caption
from halovid.world_training import clips
from halovid.world_training.plans import PLANS, Plan
from tiny_world_training import NUM_CLIPS, render_work

PLAIN = PLANS["plain"]
each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


@each_plan
def test_shards_hold_clips_and_captions_and_are_rendered_once(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = render_work(tmp_path, monkeypatch, plan)
    shard = np.load(clips.shard_path(work / "clips", 1))
    assert shard.shape == (2, 3, *plan.world.clip_shape) and shard.dtype == np.uint8
    captions = clips.caption_path(work / "clips", 1).read_text().splitlines()
    assert len(captions) == 2
    assert all(parse_caption(caption) for caption in captions)
    assert (torch.from_numpy(shard[0]) == clips.render_training_clip(plan, 2)[0]).all()
    before = clips.shard_path(work / "clips", 1).stat().st_mtime_ns
    clips.render_shards(plan, work / "clips", range(2))
    assert clips.shard_path(work / "clips", 1).stat().st_mtime_ns == before


def test_a_batch_is_a_box_of_the_clips_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = clips.Clips(render_work(tmp_path, monkeypatch) / "clips")
    assert len(data) == NUM_CLIPS
    whole = clips.render_training_clip(PLAIN, 3)[0].float() / 127.5 - 1
    box = (slice(2, 7), slice(8, 24), slice(40, 64))
    batch = data.batch(torch.tensor([3, 0]), box)
    assert batch.shape == (2, 3, 5, 16, 24)
    assert torch.equal(batch[0], whole[:, 2:7, 8:24, 40:64])
    assert torch.equal(data.batch(torch.tensor([1, 3]))[1], whole)


def test_as_many_sprites_are_corrupted_as_the_plan_says() -> None:
    """The clips of a plan without corruptions are other clips than those of one with them."""
    clean, corrupted = (
        clips.render_training_clip(Plan(**vars(PLAIN) | {"corruption_rate": rate}), 5)[0].float() for rate in (0.0, 1.0)
    )
    assert (clean - corrupted).abs().mean() > 1
    assert torch.equal(clips.render_training_clip(PLAIN, 5)[0], clips.render_training_clip(PLAIN, 5)[0])


def test_no_clips_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="render them first"):
        clips.Clips(tmp_path)
