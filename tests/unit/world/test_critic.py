"""The critics: fully convolutional, one of each world, and missing ones are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from halovid.maths.grid import PatchGrid
from halovid.records import ClipBatch, Conditioning
from halovid.store.errors import InputError
from halovid.world import critic
from halovid.world.captions import write_caption
from halovid.world.corruptions import KINDS
from halovid.world.critic import WEIGHTS, Critic, load_critic
from halovid.world.inspector import GEOMETRY
from halovid.world.instruments import CriticInstrument, InspectorInstrument
from halovid.world.render import render_scene
from halovid.world.scenes import sample_scene
from halovid.world.worlds import PANORAMA, PLAIN, WORLDS, World


@pytest.fixture
def panorama_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the panorama world's critic is looked for: a file that is not there yet."""
    monkeypatch.setitem(critic.WEIGHTS, "panorama", tmp_path / "critic.safetensors")
    load_critic.cache_clear()
    yield tmp_path / "critic.safetensors"
    load_critic.cache_clear()


def clips_of(world: World) -> ClipBatch:
    """A clean clip of a world."""
    scene = sample_scene(6, "heldout", world)
    row = {"prompt_id": "p", "prompt": write_caption(scene.spec, np.random.default_rng(0)), "clip_id": "c"}
    nothing = Conditioning({"prompt_embeds": torch.zeros(1, 1, 1)})
    return ClipBatch(render_scene(scene)[None], [row], GEOMETRY, world.patch_grid, lambda prompt_ids: nothing)


def never(clip_id: str, reason: str, again: bool) -> None:
    raise AssertionError(f"{clip_id} was skipped: {reason}")


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_critic_names_corruptions_in_every_latent_cell_of_a_world_s_clips(world: World) -> None:
    torch.manual_seed(0)
    network, video = Critic().eval(), torch.rand(2, 3, *world.clip_shape) * 2 - 1
    with torch.no_grad():
        assert network(video).shape == (2, 1 + len(KINDS), *GEOMETRY.latent_shape(*world.clip_shape))
    for grid in (world.patch_grid, PatchGrid(1, 1, 1), PatchGrid(2, 3, 5)):
        probability, kinds = network.defect_probability(video, grid), network.kinds(video, grid)
        assert probability.shape == kinds.shape == (2, *grid.shape)
        assert 0 <= probability.min() and probability.max() <= 1
        assert 0 <= kinds.min() and kinds.max() < len(KINDS)


def test_every_world_has_a_file_of_its_own_for_its_critic() -> None:
    assert WEIGHTS.keys() == WORLDS.keys()
    assert len(set(WEIGHTS.values())) == len(WORLDS)


def test_the_packaged_critic_is_loaded_once_and_finds_a_clean_clip_clean() -> None:
    network = load_critic(PLAIN)
    assert load_critic(PLAIN) is network and not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    values = CriticInstrument().measure(clips_of(PLAIN), never)
    assert values["critic_defect_probability"].item() < 20


def test_a_world_without_a_critic_says_how_one_is_made_and_the_other_world_is_measured(panorama_weights: Path) -> None:
    words = "the panorama world has no critic: .*is missing; train it by .*critic --world panorama"
    for instrument in (CriticInstrument(), InspectorInstrument()):
        with pytest.raises(InputError, match=words):
            instrument.measure(clips_of(PANORAMA), never)
        assert all(value.shape == (1,) for value in instrument.measure(clips_of(PLAIN), never).values())


def test_the_critic_of_a_clip_is_that_of_its_world(panorama_weights: Path) -> None:
    torch.manual_seed(0)
    network = Critic().eval()
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, panorama_weights)
    clips = clips_of(PANORAMA)
    expected = 100 * network.defect_probability(clips.video, clips.grid).mean()
    found = CriticInstrument().measure(clips, never)["critic_defect_probability"]
    torch.testing.assert_close(found, expected[None], rtol=0, atol=0.2)  # of weights in half precision
    values = InspectorInstrument().measure(clips, never)
    assert values.keys() == InspectorInstrument.measures.keys()
    assert values["defective_patches"].item() == 0 and values["text_alignment"].item() == 100
