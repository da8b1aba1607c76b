"""Pipelines and settings that a video family does not drive are refused with the reason, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halovid.config.run import GeneratorConfig
from halovid.models import check_model
from halovid.models.loading import INDEX
from halovid.store.errors import InputError
from tiny_pipelines import TINY

NETWORK = "transformer/config.json"


def config_in(folder: Path, pipeline: str, **changes: Any) -> GeneratorConfig:
    """A tiny pipeline, written to a folder, with settings that it takes but for some."""
    TINY[pipeline].build().save_pretrained(folder)
    frames, height, width = TINY[pipeline].size
    size = {"num_frames": frames, "height": height, "width": width}
    return GeneratorConfig(model=str(folder), **size | TINY[pipeline].settings | changes)


@pytest.mark.parametrize(
    ("pipeline", "file", "changes", "words"),
    [
        ("SkyReelsV2Pipeline", NETWORK, {"inject_sample_info": True}, "was made for diffusion forcing"),
        ("SkyReelsV2Pipeline", NETWORK, {"num_frame_per_block": 2}, "was made for diffusion forcing"),
        ("HunyuanVideoPipeline", NETWORK, {"guidance_embeds": False}, "network that is not told the guidance scale"),
        ("HunyuanVideo15Pipeline", NETWORK, {"use_meanflow": True}, "two noise levels at once"),
        (
            "HunyuanVideo15Pipeline",
            INDEX,
            {"guider": ["diffusers", "PerturbedAttentionGuidance"]},
            "guides by PerturbedAttentionGuidance",
        ),
        (
            "HunyuanVideo15Pipeline",
            "guider/guider_config.json",
            {"stop": 0.5},
            r"a guider with other settings than the usual \(stop\)",
        ),
        ("SanaVideoPipeline", INDEX, {"vae": ["diffusers", "AutoencoderDC"]}, "an autoencoder of class AutoencoderDC"),
        ("AnimateDiffPipeline", INDEX, {"unet": ["diffusers", "UNet2DConditionModel"]}, "without motion layers"),
    ],
)
def test_relatives_of_a_family_that_it_does_not_drive(
    pipeline: str, file: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = config_in(tmp_path, pipeline)
    check_model(config)
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=words):
        check_model(config)


@pytest.mark.parametrize(
    ("pipeline", "changes", "words"),
    [
        ("LTXPipeline", {"num_inference_steps": 1}, r"generator\.num_inference_steps must be 2 or more"),
        ("HunyuanVideoPipeline", {"negative_prompt": "a square"}, "takes no negative prompt"),
        ("AnimateDiffPipeline", {"num_frames": 33}, r"at most 32 frames: generator\.num_frames is 33"),
        ("LattePipeline", {"num_frames": 16}, r"makes clips of 4 frames: generator\.num_frames is 16"),
        ("AllegroPipeline", {"num_frames": 32}, r"whole tiles: generator\.num_frames is 32, not 24 \+ 16 \* k$"),
        ("AllegroPipeline", {"height": 64}, r"whole tiles: generator\.height is 64, not 128 \+ 8 \* k$"),
    ],
)
def test_settings_that_a_pipeline_would_ignore_or_fail_on(
    pipeline: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = config_in(tmp_path, pipeline, **changes)
    with pytest.raises(InputError, match=words):
        check_model(config)
