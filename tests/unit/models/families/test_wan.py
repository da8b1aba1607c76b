"""Skipping the text padding of a Wan transformer changes nothing that it computes."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from halovid.models.families.wan import merge_text_padding

LENGTH, TEXT_WIDTH = 13, 7
SHAPE = (3, 5, 6, 4)  # channels, latent frames, rows, columns


def make_transformer() -> WanTransformer3DModel:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        text_dim=TEXT_WIDTH,
        freq_dim=8,
        ffn_dim=20,
        num_layers=2,
    )
    for parameter in transformer.parameters():  # biases and scales at their first values would hide mistakes
        parameter.data += 0.3 * torch.randn_like(parameter)
    return transformer.double().eval()


@pytest.fixture(scope="module")
def pair() -> tuple[WanTransformer3DModel, WanTransformer3DModel]:
    """The same weights, plain and with merged padding."""
    plain = make_transformer()
    merged = copy.deepcopy(plain)
    merge_text_padding(merged)
    return plain, merged


def make_inputs(lengths: tuple[int, ...], seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, timesteps, and prompts whose rows from `lengths` on are zero."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(lengths), *SHAPE, generator=generator, dtype=torch.float64)
    timestep = torch.rand(len(lengths), generator=generator, dtype=torch.float64) * 1000
    text = torch.randn(len(lengths), LENGTH, TEXT_WIDTH, generator=generator, dtype=torch.float64)
    for row, length in enumerate(lengths):
        text[row, length:] = 0
    return latents, timestep, text


def run(transformer: WanTransformer3DModel, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return transformer(*inputs, return_dict=False)[0]


@pytest.mark.parametrize(
    "lengths",
    [(5,), (1,), (LENGTH,), (LENGTH - 1,), (0,), (3, 11), (LENGTH, 4), (0, 6, LENGTH), (0, 0)],
)
def test_the_output_is_that_of_the_plain_transformer(
    pair: tuple[WanTransformer3DModel, WanTransformer3DModel], lengths: tuple[int, ...]
) -> None:
    inputs = make_inputs(lengths)
    torch.testing.assert_close(run(pair[1], inputs), run(pair[0], inputs), rtol=1e-6, atol=1e-6)


def test_the_prompt_and_its_padding_do_matter(pair: tuple[WanTransformer3DModel, WanTransformer3DModel]) -> None:
    latents, timestep, text = make_inputs((5,))
    outputs = [run(pair[1], (latents, timestep, own)) for own in (text, text * 0.5, text[:, :9], text[:, :5])]
    for one, other in itertools.pairwise(outputs):
        assert (one - other).abs().max() > 1e-4


def test_a_zero_row_inside_a_prompt_is_not_padding(pair: tuple[WanTransformer3DModel, WanTransformer3DModel]) -> None:
    latents, timestep, text = make_inputs((6, 9))
    text[0, 2] = 0
    text[1, 0] = 0
    inputs = (latents, timestep, text)
    torch.testing.assert_close(run(pair[1], inputs), run(pair[0], inputs), rtol=1e-6, atol=1e-6)


def test_the_text_may_be_named(pair: tuple[WanTransformer3DModel, WanTransformer3DModel]) -> None:
    latents, timestep, text = make_inputs((5, 2))
    named = pair[1](hidden_states=latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)[0]
    assert torch.equal(named, run(pair[1], (latents, timestep, text)))


@pytest.mark.parametrize(("lengths", "kept"), [((5, 2), 6), ((0, 0), 1), ((LENGTH, 2), LENGTH)])
def test_the_padding_is_skipped(
    pair: tuple[WanTransformer3DModel, WanTransformer3DModel], lengths: tuple[int, ...], kept: int
) -> None:
    seen: list[int] = []
    keys = pair[1].blocks[0].attn2.to_k
    handle = keys.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    run(pair[1], make_inputs(lengths))
    handle.remove()
    assert seen == [kept]  # the longest prompt and one row for all padding


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_plain_transformer(checkpointing: bool) -> None:
    plain = make_transformer()
    merged = make_transformer()
    merge_text_padding(merged)
    if checkpointing:
        merged.train()
        merged.enable_gradient_checkpointing()
    gradients = []
    for transformer in (plain, merged):
        latents, timestep, text = make_inputs((5, 0, LENGTH))
        latents.requires_grad_()
        output = run(transformer, (latents, timestep, text))
        (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum().backward()
        gradients.append({"latents": latents.grad} | {name: p.grad for name, p in transformer.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        assert expected is not None, name
        torch.testing.assert_close(
            gradients[1][name], expected, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_deep_copy_has_a_padding_of_its_own(pair: tuple[WanTransformer3DModel, WanTransformer3DModel]) -> None:
    """As when the policy is compared with a frozen copy: neither may see the other's prompt lengths."""
    merged = pair[1]
    other = copy.deepcopy(merged)
    inputs, others = make_inputs((9, 11)), make_inputs((5, 2), seed=2)
    copied: list[Tensor] = []
    handle = merged.blocks[0].register_forward_pre_hook(lambda *_: copied.append(run(other, others)))
    interrupted = run(merged, inputs)
    handle.remove()
    torch.testing.assert_close(interrupted, run(pair[0], inputs), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(copied[0], run(pair[0], others), rtol=1e-6, atol=1e-6)
