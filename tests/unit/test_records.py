"""What prompts make a model do: rows, padding, files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from halovid.records import Conditioning
from halovid.store.errors import InputError


def make(rows: int, length: int, seed: int = 0) -> Conditioning:
    """Text states, their mask and a pooled vector."""
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(
        {
            "prompt_embeds": torch.randn(rows, length, 5, generator=generator),
            "prompt_attention_mask": torch.ones(rows, length, dtype=torch.int64),
            "pooled_projections": torch.randn(rows, 3, generator=generator),
        }
    )


def test_unequal_texts_are_padded_with_zeros_and_so_are_their_masks() -> None:
    short, long = make(1, 2), make(2, 4, seed=1)
    both = Conditioning.cat([short, long])
    assert len(both) == 3
    assert both.tensors["prompt_embeds"].shape == (3, 4, 5) and both.tensors["pooled_projections"].shape == (3, 3)
    assert torch.equal(both.tensors["prompt_embeds"][0, :2], short.tensors["prompt_embeds"][0])
    assert not both.tensors["prompt_embeds"][0, 2:].any()
    assert both.tensors["prompt_attention_mask"].tolist() == [[1, 1, 0, 0], [1] * 4, [1] * 4]
    assert torch.equal(both.rows([1, 2]).tensors["prompt_embeds"], long.tensors["prompt_embeds"])


def test_rows_are_chosen_by_numbers_or_a_mask() -> None:
    texts = make(3, 2)
    for chosen in ([2, 0], torch.tensor([2, 0])):
        found = texts.rows(chosen).tensors["prompt_embeds"]
        assert torch.equal(found, texts.tensors["prompt_embeds"][[2, 0]])
    assert len(texts.rows(torch.tensor([True, False, True]))) == 2
    assert torch.equal(texts.repeat(2).rows([3]).tensors["prompt_embeds"], texts.rows([0]).tensors["prompt_embeds"])


def test_text_states_are_zero_where_the_model_reads_nothing() -> None:
    texts = Conditioning.cat([make(1, 2), make(1, 4)])
    texts.tensors["prompt_embeds"][0, 3] = 7  # padding of some encoders is not zero
    states = texts.text_states()
    assert states.dtype == torch.float32 and not states[0, 2:].any() and states[0, :2].any()
    unmasked = Conditioning({"prompt_embeds": torch.ones(1, 2, 3, dtype=torch.bfloat16)})
    assert torch.equal(unmasked.text_states(), torch.ones(1, 2, 3))


def test_conditionings_of_different_models_are_not_put_together() -> None:
    with pytest.raises(ValueError, match="conditionings of one model have the same tensors"):
        Conditioning.cat([make(1, 2), Conditioning({"prompt_embeds": torch.zeros(1, 2, 5)})])
    with pytest.raises(ValueError, match="equally many rows"):
        Conditioning({"prompt_embeds": torch.zeros(2, 3, 4), "mask": torch.zeros(1, 3)})


def test_a_file_holds_one_prompt_and_is_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(ValueError, match="one prompt, not of 2"):
        make(2, 2).save(path)
    texts = make(1, 3)
    texts.save(path)
    for name, value in Conditioning.load(path).tensors.items():
        assert torch.equal(value, texts.tensors[name])
    whole = path.read_bytes()
    for cut in random.Random(0).sample(range(len(whole)), 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="is missing or damaged"):
            Conditioning.load(path)
    path.unlink()
    with pytest.raises(InputError, match="is missing or damaged"):
        Conditioning.load(path)
