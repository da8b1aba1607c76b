"""What every instrument promises, whichever it is."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from halovid.config.recipes import make_config
from halovid.config.run import InstrumentName, RunConfig
from halovid.maths.grid import PatchGrid
from halovid.measuring.instruments import (
    INSTRUMENTS,
    MEASURES,
    Instrument,
    open_instruments,
    require_measurable,
    require_measure,
    settings_read,
)
from halovid.records import ClipBatch, Conditioning, Prompt
from halovid.rewards.network import RewardNetwork, RewardSpec, save_reward
from halovid.stages import required_stages
from halovid.store.errors import InputError
from halovid.world.captions import write_caption
from halovid.world.corruptions import render_corrupted, sample_events
from halovid.world.inspector import GEOMETRY
from halovid.world.scenes import place_scene, sample_spec
from halovid.world.worlds import WORLDS
from tiny_models import encoder_spec

GRID = PatchGrid(4, 4, 4)
NEEDS_OTHER_SAMPLES = {"diversity", "diversity_without_defects"}


@pytest.fixture(scope="module")
def clips() -> ClipBatch:
    """Two samples of one prompt and one of another, with defects."""
    videos, rows = [], []
    for prompt_id, sample in (("p0", 0), ("p0", 1), ("p1", 0)):
        spec = sample_spec(np.random.default_rng(int(prompt_id[1])), "heldout")
        rng = np.random.default_rng([int(prompt_id[1]), sample])
        scene = place_scene(spec, rng)
        videos.append(render_corrupted(scene, sample_events(scene, rng, 0.7), rng))
        caption = write_caption(spec, np.random.default_rng(0))
        row = {"clip_id": f"{prompt_id}-{sample:02d}", "prompt_id": prompt_id, "prompt": caption}
        rows.append(row | {"fps": 8.0})
    states = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    prompt = Conditioning({"prompt_embeds": states})
    return ClipBatch(torch.stack(videos), rows, GEOMETRY, GRID, lambda names: prompt.repeat(len(names)))


def only(clips: ClipBatch, index: int) -> ClipBatch:
    """A batch of one of the clips."""
    video, rows = clips.video[index : index + 1], clips.rows[index : index + 1]
    return ClipBatch(video, rows, clips.geometry, clips.grid, clips.conditioning)


def never(clip_id: str, reason: str, again: bool) -> None:
    raise AssertionError(f"{clip_id} was skipped: {reason}")


@pytest.fixture(scope="module", params=INSTRUMENTS)
def instrument(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Instrument:
    """Each instrument as a run opens it; the run has a reward model of random weights."""
    run_dir: Path = tmp_path_factory.mktemp("run")
    if request.param == "reward":
        torch.manual_seed(0)
        backbone = encoder_spec(patch_size=8, num_frames=13, frame_height=32, frame_width=32, prompt_width=4)
        aspects = ("visual_quality",)
        save_reward(
            RewardNetwork(RewardSpec(backbone=backbone, aspects=aspects, patch_aspects=aspects)), run_dir / "reward"
        )
    config = make_config({"device": "cpu", "judge": {"judge": "inspector"}})
    [opened] = open_instruments([request.param], config, run_dir)
    return opened


@pytest.fixture(scope="module")
def values(instrument: Instrument, clips: ClipBatch) -> dict[str, Tensor]:
    return instrument.measure(clips, never)


def test_every_measure_is_known_and_has_a_value_of_every_clip(
    instrument: Instrument, values: dict[str, Tensor]
) -> None:
    assert values.keys() == instrument.measures.keys() <= MEASURES.keys()
    for value in values.values():
        assert value.shape == (3,) and value.is_floating_point() and value.device.type == "cpu"


def test_what_is_not_known_is_nan_and_nothing_else_is(values: dict[str, Tensor]) -> None:
    for key, value in values.items():
        unknown = [False, False, key in NEEDS_OTHER_SAMPLES]  # the third clip is alone in its prompt
        assert value.isnan().tolist() == unknown and not value.isinf().any(), key


def test_a_clip_alone_has_the_values_that_it_has_in_a_batch(
    instrument: Instrument, values: dict[str, Tensor], clips: ClipBatch
) -> None:
    for index in range(3):
        for key, value in instrument.measure(only(clips, index), never).items():
            if key in NEEDS_OTHER_SAMPLES:
                assert value.isnan().all()
            else:
                torch.testing.assert_close(value[0], values[key][index], rtol=1e-4, atol=1e-3, msg=key)


def test_clips_of_one_frame_have_no_measures_of_motion(clips: ClipBatch) -> None:
    [plain] = open_instruments(["plain"], recipe("plain"), Path("nowhere"))
    pictures = ClipBatch(clips.video[:, :, :1], clips.rows, clips.geometry, clips.grid, clips.conditioning)
    values = plain.measure(pictures, never)
    assert values.keys() == plain.measures.keys()
    assert all(value.shape == (3,) and value.isnan().all() for value in values.values())


def test_measuring_twice_gives_the_same(instrument: Instrument, values: dict[str, Tensor], clips: ClipBatch) -> None:
    for key, value in instrument.measure(clips, never).items():
        torch.testing.assert_close(value, values[key], rtol=0, atol=0, equal_nan=True)


def test_no_two_instruments_share_an_id_and_no_two_measures_a_title() -> None:
    config, run_dir = make_config({"judge": {"judge": "inspector"}}), Path("nowhere")
    opened = open_instruments([name for name in INSTRUMENTS if name != "reward"], config, run_dir)
    ids = [key for instrument in opened for key in instrument.measures]
    assert len(ids) == len(set(ids)) == len(MEASURES) - 2
    assert len({measure.title for measure in MEASURES.values()}) == len(MEASURES)
    assert all(key.isidentifier() and key == key.lower() for key in MEASURES)


def test_a_recipe_can_name_every_instrument_and_no_other() -> None:
    assert set(get_args(InstrumentName)) == INSTRUMENTS.keys()


def recipe(*names: str) -> RunConfig:
    return make_config({"evaluate": {"instruments": list(names)}})


def test_what_instruments_read_is_part_of_what_they_say() -> None:
    assert required_stages(recipe("plain"), "baseline") == ["baseline"]
    assert "reward" in required_stages(recipe("plain", "reward"), "baseline")
    assert settings_read(recipe("plain")) == {}
    assert settings_read(recipe("judge")) == recipe("judge").part("judge")


def test_prompts_that_an_instrument_cannot_measure_are_told_ahead(clips: ClipBatch) -> None:
    prompts = [Prompt("p0", clips.rows[0]["prompt"]), Prompt("p7", "a cat")]
    require_measurable(prompts[:1], recipe("inspector", "critic"))
    require_measurable(prompts, recipe("critic", "plain"))
    with pytest.raises(InputError, match=r"'inspector'.*prompt p7: not a caption.*take it out of evaluate.instruments"):
        require_measurable(prompts, recipe("plain", "inspector"))


@pytest.mark.parametrize("name", ["inspector", "critic"])
def test_clips_of_a_size_that_an_instrument_cannot_measure_are_told_ahead(name: str) -> None:
    def sized(frames: int, height: int, width: int, instrument: str) -> RunConfig:
        generator = {"num_frames": frames, "height": height, "width": width}
        return make_config({"generator": generator, "evaluate": {"instruments": [instrument]}})

    for world in WORLDS.values():
        require_measurable([], sized(*world.clip_shape, name))
    require_measurable([], sized(17, 64, 64, "plain"))
    words = rf"'{name}'.*13 frames of 64 x 64 pixels or 17 frames of 96 x 96.*\(17, 64, 64\); .*take it out of evaluate"
    with pytest.raises(InputError, match=words):
        require_measurable([], sized(17, 64, 64, name))


def test_a_measure_that_is_called_by_its_title_is_told_its_id() -> None:
    assert require_measure("judge_rating") == "judge_rating"
    with pytest.raises(InputError, match="is a title, use the id 'judge_rating'"):
        require_measure("judge: rating")
    with pytest.raises(InputError, match="did you mean 'flow_warp_error'"):
        require_measure("flow_warp")
