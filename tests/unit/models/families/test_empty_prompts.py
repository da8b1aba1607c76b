"""An empty prompt changes none of those that it is encoded with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from family_models import open_tiny
from tiny_pipelines import TINY


@pytest.mark.parametrize("name", ["MochiPipeline", "LattePipeline"])
def test_prompts_are_encoded_in_a_batch_as_alone(name: str, tmp_path: Path) -> None:
    """Mochi blanks a batch that ends with an empty prompt; Latte pads a prompt only beside others."""
    pipe = TINY[name].build()
    if name == "MochiPipeline":
        pipe.register_to_config(force_zeros_for_empty_prompt=True)
    pipe.save_pretrained(tmp_path / name)
    model = open_tiny(tmp_path / name, ("text",))
    both = model.encode_prompts(["a red circle", ""])
    for row, prompt in enumerate(["a red circle", ""]):
        for key, value in model.encode_prompts([prompt]).tensors.items():
            padded = both.tensors[key][row]
            torch.testing.assert_close(padded[: len(value[0])], value[0], rtol=1e-4, atol=1e-5)
            assert not padded[len(value[0]) :].any()
    assert not torch.allclose(both.tensors["prompt_embeds"][0], both.tensors["prompt_embeds"][1])
