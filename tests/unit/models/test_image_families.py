"""Pictures as clips of one frame: squares of cells as tokens, and the settings that image families refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from halovid.config.run import GeneratorConfig
from halovid.models import FAMILIES, check_model, load_family
from halovid.models.pictures import pack_squares, unpack_squares
from halovid.store.errors import InputError
from tiny_image_pipelines import IMAGES


def test_tokens_are_squares_of_cells_row_by_row() -> None:
    latents = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 1, 4, 6)
    tokens = pack_squares(latents)
    assert tokens.shape == (2, 6, 12)
    second_of_the_second_row = latents[1, :, 0, 2:4, 2:4]
    assert torch.equal(tokens[1, 4], second_of_the_second_row.flatten())
    assert torch.equal(unpack_squares(tokens, (1, 4, 6)), latents)


@pytest.mark.parametrize("pipeline", sorted({name.split("-")[0] for name in IMAGES}))
def test_pictures_have_one_frame(pipeline: str, tmp_path: Path) -> None:
    family = load_family(pipeline, pipeline)
    write_settings(tmp_path, {"guidance_embeds": pipeline == "FluxPipeline"})
    assert family.problem(tmp_path, GeneratorConfig(num_frames=1)) is None
    problem = family.problem(tmp_path, GeneratorConfig(num_frames=5))
    assert problem == "makes pictures: generator.num_frames must be 1, not 5"


def write_settings(folder: Path, transformer: dict[str, Any] | None = None, **index: Any) -> None:
    """A pipeline's folder with these settings of its denoiser and of its index, and nothing else."""
    whole = {"text_encoder_3": ["transformers", "T5EncoderModel"], "is_distilled": False} | index
    (folder / "model_index.json").write_text(json.dumps(whole))
    for component in ("transformer", "unet"):
        (folder / component).mkdir()
        (folder / component / "config.json").write_text(json.dumps(transformer or {}))


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    # pipeline, settings of its denoiser, of its index, of the recipe, what is said
    "consistency": ("StableDiffusionXLPipeline", {"time_cond_proj_dim": 256}, {}, {}, "latent consistency model"),
    "no T5": ("StableDiffusion3Pipeline", {}, {"text_encoder_3": [None, None]}, {}, "lacks its third text encoder"),
    "too wide": ("StableDiffusion3Pipeline", {"pos_embed_max_size": 64}, {}, {"width": 1040}, "up to 1024 pixels"),
    "negative": ("FluxPipeline", {"guidance_embeds": True}, {}, {"negative_prompt": "fog"}, "takes no negative prompt"),
    "schnell": ("FluxPipeline", {}, {}, {"guidance_scale": 3.5}, "guidance_scale is 3.5, set it to 1"),
    "klein": ("Flux2KleinPipeline", {}, {"is_distilled": True}, {"guidance_scale": 4}, "guidance_scale is 4, set it"),
    "Qwen": ("QwenImagePipeline", {"guidance_embeds": True}, {}, {}, "told its guidance scale as an input"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_settings_that_the_pipeline_would_ignore_or_fail_on_are_refused(name: str, tmp_path: Path) -> None:
    pipeline, denoiser, index, settings, expected = REFUSED[name]
    write_settings(tmp_path, denoiser, **index)
    said = load_family(pipeline, pipeline).problem(tmp_path, GeneratorConfig(num_frames=1, **settings))
    assert said is not None and expected in said


def test_a_recipe_for_clips_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    IMAGES["StableDiffusionPipeline"].build().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="num_frames must be 1, not 13"):
        check_model(GeneratorConfig(model=str(tmp_path)))


def test_every_image_pipeline_is_a_family() -> None:
    assert {name.split("-")[0] for name in IMAGES} <= FAMILIES.keys()
