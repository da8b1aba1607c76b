"""Files of reward models that a broken download or a bad disk has changed: one sentence, or the very same model."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from halovid.rewards.network import RewardNetwork, RewardSpec, load_reward, save_reward
from halovid.rewards.released import load_released
from halovid.store.errors import InputError
from tiny_models import encoder_spec, write_videoreward

HEADER = 3000  # bytes at the start of a file that say how the rest is read


def damaged_copies(origin: Path, copy: Path, count: int) -> Iterator[Path]:
    """Copies of a folder, in each of which one file is cut short or has a few wrong bytes, often in its header."""
    files = sorted(path.relative_to(origin) for path in origin.rglob("*") if path.is_file())
    for seed in range(count):
        rng = random.Random(seed)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(origin, copy)
        path = copy / rng.choice(files)
        content = bytearray(path.read_bytes())
        if rng.random() < 0.4:
            content = content[: rng.randrange(len(content))]
        else:
            for _ in range(rng.choice((1, 1, 3))):
                reach = len(content) if rng.random() < 0.5 else min(len(content), HEADER)
                content[rng.randrange(reach)] = rng.randrange(256)
        path.write_bytes(content)
        yield copy


def assert_one_sentence(error: InputError, folder: Path) -> None:
    assert str(folder) in str(error) and "\n" not in str(error) and len(str(error)) < 1200


def test_a_damaged_reward_network_is_never_another_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = RewardNetwork(RewardSpec(backbone=encoder_spec(), aspects=("a", "b"), patch_aspects=("a",)))
    save_reward(network, tmp_path / "reward")
    state, refused = network.stored_state(), 0
    for folder in damaged_copies(tmp_path / "reward", tmp_path / "copy", 120):
        try:
            loaded = load_reward(folder)
        except InputError as error:
            assert_one_sentence(error, folder)
            refused += 1
            continue
        assert loaded.spec == network.spec
        assert all(torch.equal(value, state[name]) for name, value in loaded.stored_state().items())
    assert refused > 100


def test_a_model_of_before_checksums_is_read(tmp_path: Path) -> None:
    network = RewardNetwork(RewardSpec(backbone=encoder_spec(), aspects=("a",), patch_aspects=("a",)))
    save_reward(network, tmp_path)
    save_file(load_file(tmp_path / "reward.safetensors"), tmp_path / "reward.safetensors")
    assert torch.equal(load_reward(tmp_path).video_head.weight, network.video_head.weight)


@pytest.mark.parametrize("layout", ["whole", "pair"])
def test_a_damaged_released_model_is_no_traceback(layout: str, tmp_path: Path) -> None:
    origin, refused = write_videoreward(tmp_path / "VideoReward", layout, 3), 0
    video = torch.rand(3, 9, 16, 24) * 2 - 1
    for folder in damaged_copies(origin, tmp_path / "copy", 15):
        try:
            load_released(str(folder)).score(video, 8.0, "a cat")
        except InputError as error:
            assert_one_sentence(error, folder)
            refused += 1
    assert refused > 3
