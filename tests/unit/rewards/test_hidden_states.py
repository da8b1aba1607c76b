"""Rewards by the hidden states of the generator's denoiser: what is read, when, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from halovid.clips.conditions import encode_conditions
from halovid.clips.folder import ClipFolder, write_clips
from halovid.config.recipes import make_config
from halovid.config.run import RunConfig
from halovid.models import PARTS, DiffusionModel, open_model
from halovid.models.hidden_states import hidden_states, token_shape
from halovid.records import Prompt, PromptBatch
from halovid.rewards.backbones import DenoiserSpec
from halovid.rewards.hidden_states import HiddenStateReader, open_reader
from halovid.rewards.network import RewardNetwork, RewardSpec, load_reward, save_reward
from halovid.rewards.rewarder import DenoiserRewarder, open_rewarder, reward_latents, reward_rows
from halovid.store.errors import DamageError, InputError
from halovid.store.tables import CLIPS, rows_to_table, write_table

PROMPTS = [Prompt("p0", "A small red circle"), Prompt("p1", "a big blue ring")]
ASPECTS = {"aspects": ["visual_quality"], "patch_aspects": ["visual_quality"]}


@pytest.fixture(scope="module")
def config(tiny_pipeline: Path) -> RunConfig:
    generator = {"model": str(tiny_pipeline), "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
    reward = {"backbone": "denoiser", "width": 16, "layers": 1, "levels": [0.2, 0.6]} | ASPECTS
    return make_config({"device": "cpu", "grid": {"t": 2, "h": 2, "w": 1}, "generator": generator, "reward": reward})


@pytest.fixture(scope="module")
def model(config: RunConfig) -> DiffusionModel:
    return open_model(config, PARTS)


@pytest.fixture(scope="module")
def folder(config: RunConfig, model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip folder with a clip of each prompt."""
    path = tmp_path_factory.mktemp("clips")
    encode_conditions(path, PROMPTS, config)
    latents = latents_of(model)
    rows = write_clips(path, ["a", "b"], PROMPTS, [1, 2], latents, model.decode_video(latents), 8.0)
    write_table(path / "clips.parquet", rows_to_table(rows, CLIPS))
    return path


@pytest.fixture(scope="module")
def clips(folder: Path, config: RunConfig) -> ClipFolder:
    return ClipFolder(folder, config.clip_size)


@pytest.fixture(scope="module")
def reader(config: RunConfig) -> HiddenStateReader:
    return open_reader(config)


@pytest.fixture(scope="module")
def network(reader: HiddenStateReader, clips: ClipFolder) -> RewardNetwork:
    torch.manual_seed(0)
    states = reader.read(clips.latents(clips.rows[0])[None], clips.conditioning(["p0"]), 0.2)
    return RewardNetwork(spec_of(reader, states.shape[1])).eval()


@pytest.fixture(scope="module")
def rewarder(network: RewardNetwork, config: RunConfig, reader: HiddenStateReader) -> DenoiserRewarder:
    return DenoiserRewarder(network, config.grid, reader)


def latents_of(model: DiffusionModel) -> Tensor:
    return torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))


def spec_of(reader: HiddenStateReader, states: int) -> RewardSpec:
    size = {"num_frames": 5, "frame_height": 32, "frame_width": 32, "temporal_stride": 4, "causal_first_frame": True}
    backbone = DenoiserSpec(
        name="denoiser", states=states, block=reader.block, levels=reader.levels, width=16, layers=1, **size
    )
    return RewardSpec(backbone=backbone, aspects=("visual_quality",), patch_aspects=("visual_quality",))


def prompts_of(clips: ClipFolder) -> PromptBatch:
    return clips.prompt_batch(clips.rows, conditioned=True)


def states_by_hand(model: DiffusionModel, block: int, noisy: Tensor, level: Tensor, prompts: PromptBatch) -> Tensor:
    """What a whole forward pass shows of a block."""
    seen: list[Tensor] = []
    handle = model.blocks()[block].register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert prompts.conditioning is not None
    with torch.no_grad():
        model.predict(noisy, level, prompts.conditioning)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("block", [0, 1])
def test_states_are_those_of_the_whole_network_and_no_later_block_is_computed(
    block: int, model: DiffusionModel, clips: ClipFolder
) -> None:
    noisy, level, prompts = latents_of(model), torch.tensor([0.3, 0.7]), prompts_of(clips)
    calls = [0] * len(model.blocks())
    handles = [
        each.register_forward_hook(lambda *_, number=number: calls.__setitem__(number, calls[number] + 1))
        for number, each in enumerate(model.blocks())
    ]
    assert prompts.conditioning is not None
    with torch.no_grad():
        states = model.hidden_states(noisy, level, prompts.conditioning, block)
    for handle in handles:
        handle.remove()
    assert calls[block + 1 :] == [0] * (len(calls) - block - 1)
    tokens = states_by_hand(model, block, noisy, level, prompts)
    assert states.shape[2:] == (2, 2, 2)  # latents 2 x 4 x 4, of which the network joins 2 x 2 cells
    torch.testing.assert_close(states.movedim(1, -1).flatten(1, 3), tokens)


def test_a_block_that_is_not_there_is_told(model: DiffusionModel, clips: ClipFolder) -> None:
    conditioning = prompts_of(clips).conditioning
    assert conditioning is not None
    with pytest.raises(InputError, match=r"2 blocks, and block 2 .* asked for"):
        model.hidden_states(latents_of(model), torch.tensor([0.1, 0.1]), conditioning, 2)


@pytest.mark.parametrize(
    ("length", "shape"),
    [(5 * 4 * 6, (5, 4, 6)), (5 * 2 * 3, (5, 2, 3)), (2 * 4 * 6, (2, 4, 6)), (2 * 2 * 3, (2, 2, 3))],
)
def test_tokens_are_laid_out_as_the_network_joins_cells(length: int, shape: tuple[int, int, int]) -> None:
    assert token_shape(torch.zeros(1, length, 3), (5, 4, 6)) == shape


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(1, 7, 3), "not the tokens of a clip"),
        (torch.zeros(1, 3, 8, 8), "not the tokens of a clip"),
        ((torch.zeros(1, 120, 3), torch.zeros(1, 30, 3)), "can each be the tokens of a clip"),
    ],
)
def test_states_that_are_no_tokens_of_the_clip_are_refused(output: Any, message: str) -> None:
    block = torch.nn.Identity()
    with pytest.raises(InputError, match=message):
        hidden_states(block, lambda: block(output), (5, 4, 6))


@pytest.mark.parametrize("clip_first", [True, False])
def test_states_of_the_text_beside_those_of_the_clip_are_left_aside(clip_first: bool) -> None:
    block, clip, text = torch.nn.Identity(), torch.randn(2, 30, 3), torch.randn(2, 7, 3)
    states = hidden_states(block, lambda: block((clip, text) if clip_first else (text, clip)), (5, 4, 6))
    assert states.shape == (2, 3, 5, 2, 3)
    torch.testing.assert_close(states.movedim(1, -1).flatten(1, 3), clip)


def test_a_clip_has_the_same_states_whenever_and_with_whatever_it_is_read(
    reader: HiddenStateReader, clips: ClipFolder
) -> None:
    latents = torch.stack([clips.latents(row) for row in clips.rows])
    together = reader.read(latents, clips.conditioning(["p0", "p1"]), 0.2)
    assert together.shape == (2, 32, 2, 2, 1)
    alone = reader.read(latents[1:], clips.conditioning(["p1"]), 0.2)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(reader.read(latents[1:], clips.conditioning(["p1"]), 0.6), alone)
    assert not torch.allclose(reader.read(latents[1:], clips.conditioning(["p0"]), 0.2), alone)


def test_a_folder_is_read_at_every_level_without_its_pixels(reader: HiddenStateReader, clips: ClipFolder) -> None:
    listed: list[str] = []
    broken = clips.rows[0] | {"clip_id": "c", "video": "clips/none.mp4", "latents": None, "latents_sha256": None}
    unseen = [row | {"video": "clips/none.mp4"} for row in clips.rows]

    def skip(clip_id: str, reason: str, again: bool = False) -> None:
        listed.append(clip_id)

    rows, states = reader.read_folder(clips, unseen, skip)
    assert states is not None and len(states) == 4
    assert [row["clip_id"] for row in rows] == ["a", "b", "a", "b"] and not listed
    assert not torch.equal(states[:2], states[2:])
    with pytest.raises(DamageError):  # a clip without latents is encoded from its pixels, which are gone
        reader.read_folder(clips, [broken], skip)


def test_a_clip_has_one_reward_by_latents_and_by_pixels(
    rewarder: DenoiserRewarder, model: DiffusionModel, clips: ClipFolder
) -> None:
    latents = latents_of(model)
    video, prompts = model.decode_video(latents), prompts_of(clips)
    by_pixels = rewarder.reward(video, prompts)
    by_latents = rewarder.reward_latents(model.encode_video(video), prompts)
    torch.testing.assert_close(by_pixels.patches, by_latents.patches, rtol=1e-4, atol=1e-5)
    assert by_pixels.refusals == (None, None) and by_pixels.patches.shape == (2, 2, 2, 1)
    chosen = reward_latents(model, rewarder, latents, prompts)
    torch.testing.assert_close(chosen.clip, rewarder.reward_latents(latents, prompts).clip)


def test_noisy_clips_are_rewarded_as_they_are(
    rewarder: DenoiserRewarder, model: DiffusionModel, clips: ClipFolder
) -> None:
    latents, prompts = latents_of(model), prompts_of(clips)
    first, second = (rewarder.reward_noisy(latents, prompts, level) for level in (0.2, 0.6))
    assert first.clip.isfinite().all() and not torch.equal(first.clip, second.clip)


def test_scoring_a_folder_never_decodes(rewarder: DenoiserRewarder, clips: ClipFolder) -> None:
    unseen = [row | {"video": "clips/none.mp4"} for row in clips.rows]
    rows, rewards = reward_rows(rewarder, clips, unseen, clips, lambda *_: None)
    assert [row["clip_id"] for row in rows] == ["a", "b"]
    assert rewards is not None and rewards.clip.isfinite().all()


def test_a_saved_network_comes_back_with_its_reader(
    network: RewardNetwork, rewarder: DenoiserRewarder, config: RunConfig, clips: ClipFolder, tmp_path: Path
) -> None:
    save_reward(network, tmp_path / "reward")
    assert load_reward(tmp_path / "reward").spec == network.spec
    opened = open_rewarder(config, tmp_path)
    assert isinstance(opened, DenoiserRewarder)
    latents, prompts = torch.stack([clips.latents(row) for row in clips.rows]), prompts_of(clips)
    torch.testing.assert_close(
        opened.reward_latents(latents, prompts).patches, rewarder.reward_latents(latents, prompts).patches
    )


def test_the_middle_block_is_read_unless_another_is_named(config: RunConfig) -> None:
    assert open_reader(config).block == 1
    named = config.model_copy(update={"reward": config.reward.model_copy(update={"block": 0})})
    assert open_reader(named).block == 0
    missing = config.model_copy(update={"reward": config.reward.model_copy(update={"block": 2})})
    with pytest.raises(InputError, match=r"reward.block is 2; .* numbered 0 to 1"):
        open_reader(missing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": {"backbone": "denoiser", "model": "some/model"}}, "leave out model"),
        ({"reward": {"backbone": "denoiser"}, "score": {"scoring": "crop"}}, "leave scoring at 'dense'"),
        ({"evaluate": {"reject": {}, "best_of": 4}}, "use backbone 'denoiser'"),
        ({"evaluate": {"reject": {}}, "reward": {"backbone": "denoiser"}}, "set best_of to 2 or more"),
    ],
)
def test_settings_that_do_not_fit_together_are_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, ValidationError), match=message):
        make_config(change)
