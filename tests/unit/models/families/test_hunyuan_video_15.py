"""HunyuanVideo 1.5 reads quoted words by an encoder of their own, and is guided by a component of its pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from family_models import open_tiny
from halovid.models import DiffusionModel
from halovid.records import Conditioning
from tiny_pipelines import TINY

NAME = "HunyuanVideo15Pipeline"
PLAIN, QUOTED = "a circle moves", 'a circle says "hello you" and a square says "no"'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    folder: Path = tmp_path_factory.mktemp("pipelines") / NAME
    TINY[NAME].build().save_pretrained(folder)
    return open_tiny(folder)


def test_texts_hold_no_padding_but_that_of_the_batch(model: DiffusionModel) -> None:
    plain, quoted = (model.encode_prompts([prompt]).tensors for prompt in (PLAIN, QUOTED))
    assert bool(plain["prompt_embeds_mask"].all()) and bool(quoted["prompt_embeds_mask"].all())
    assert plain["prompt_embeds_mask_2"].tolist() == [[0]]
    assert bool(quoted["prompt_embeds_mask_2"].all())
    assert quoted["prompt_embeds_2"].shape[1] == len('Text "hello you". Text "no". ') + 1  # bytes and an end


def test_a_prompt_is_read_alone_as_beside_one_with_quoted_words(model: DiffusionModel) -> None:
    alone = [model.encode_prompts([prompt]) for prompt in (PLAIN, QUOTED)]
    both, level = Conditioning.cat(alone), torch.tensor([0.3, 0.8])
    latents = torch.randn(2, *model.latent_shape)
    together = model.predict(latents, level, both)
    for row, texts in enumerate(alone):
        rows = slice(row, row + 1)
        torch.testing.assert_close(
            model.predict(latents[rows], level[rows], texts), together[rows], rtol=1e-4, atol=1e-5
        )
    without = {name: torch.zeros_like(value) if name.endswith("_2") else value for name, value in both.tensors.items()}
    unread = model.predict(latents, level, Conditioning(without))
    assert torch.allclose(unread[0], together[0], atol=1e-5)
    assert not torch.allclose(unread[1], together[1], atol=1e-3)


def test_each_strength_of_guidance_is_that_of_its_own_model(model: DiffusionModel) -> None:
    """Models that differ in it alone share the pipeline, and so its guider."""
    texts = model.encode_prompts([PLAIN])
    stronger = model.with_guidance(9.0)
    before = model.sample(texts, [3])
    assert not torch.allclose(stronger.sample(texts, [3]), before, atol=1e-2)
    assert torch.equal(model.sample(texts, [3]), before)
