"""The policy, its reference and its moving average, on a tiny Wan pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halovid.config.recipes import make_config
from halovid.models import open_model
from halovid.records import Conditioning
from halovid.store.errors import InputError
from halovid.training.parallel import OneProcess
from halovid.training.policy import Policy

SHAPE = (2, 4, 2, 4, 4)  # latents of two clips
MakePolicy = Callable[..., Policy]
both_methods = pytest.mark.parametrize("method", ["lora", "full"])


@pytest.fixture
def make_policy(tiny_pipeline: Path) -> MakePolicy:
    """Gives a policy of the method; `options` are those of the section align."""

    def make(method: str, parallel: OneProcess | None = None, **options: Any) -> Policy:
        sections = {"generator": {"model": str(tiny_pipeline)}, "device": "cpu", "align": {"method": method} | options}
        config = make_config(sections)
        torch.manual_seed(1)
        return Policy(open_model(config, {"denoiser"}), config.align, parallel)

    return make


def denoiser(policy: Policy) -> Any:
    """The network that is trained."""
    return policy.model.denoisers["transformer"]


@torch.no_grad()
def move(policy: Policy, size: float = 0.1) -> None:
    """Changes every trained weight, as training would."""
    for value in policy.parameters.values():
        value.add_(size * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))


def predict(policy: Policy) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    channels = denoiser(policy).config.in_channels
    latents = torch.randn(SHAPE[0], channels, *SHAPE[2:], generator=generator)
    prompts = torch.randn(SHAPE[0], 5, denoiser(policy).config.text_dim, generator=generator)
    return policy.model.predict(latents, torch.tensor([0.3, 0.8]), Conditioning({"prompt_embeds": prompts}))


@both_methods
def test_the_policy_begins_as_its_reference_and_leaves_it_unchanged(method: str, make_policy: MakePolicy) -> None:
    policy = make_policy(method)
    start = predict(policy)
    assert start.requires_grad
    with policy.reference():
        assert torch.equal(predict(policy), start)
    move(policy)
    moved = predict(policy)
    assert (moved - start).abs().max() > 1e-3
    with policy.reference():
        reference = predict(policy)
    assert torch.equal(reference, start) and not reference.requires_grad
    assert torch.equal(predict(policy), moved)


@both_methods
def test_the_policy_is_back_after_an_error_with_the_reference(method: str, make_policy: MakePolicy) -> None:
    policy = make_policy(method)
    move(policy)
    moved = predict(policy)
    with pytest.raises(KeyboardInterrupt), policy.reference():
        raise KeyboardInterrupt
    assert torch.equal(predict(policy), moved)


def test_a_lora_trains_the_adapter_alone_and_full_everything(make_policy: MakePolicy) -> None:
    lora, full = make_policy("lora", lora={"rank": 4, "alpha": 4}), make_policy("full")
    assert lora.parameters and all("lora_" in name for name in lora.parameters)
    assert full.parameters.keys() == dict(denoiser(full).named_parameters()).keys()
    for policy in (lora, full):
        predict(policy).sum().backward()
        trained = {name for name, value in denoiser(policy).named_parameters() if value.grad is not None}
        assert trained <= policy.parameters.keys()


def test_targets_that_the_network_lacks_are_refused(make_policy: MakePolicy) -> None:
    with pytest.raises(InputError, match="to_nowhere"):
        make_policy("lora", lora={"targets": ["to_nowhere"]})


@both_methods
def test_trained_weights_are_single_precision(method: str, tiny_pipeline: Path) -> None:
    config = make_config(
        {"generator": {"model": str(tiny_pipeline)}, "device": "cpu", "dtype": "bfloat16", "align": {"method": method}}
    )
    policy = Policy(open_model(config, {"denoiser"}), config.align)
    assert {value.dtype for value in (*policy.parameters.values(), *policy.ema.values())} == {torch.float32}


@both_methods
def test_the_ema_follows_its_formula_and_samples_in_place_of_the_weights(method: str, make_policy: MakePolicy) -> None:
    policy = make_policy(method, ema=0.75)
    expected = {name: value.detach().clone() for name, value in policy.parameters.items()}
    for step in range(3):
        move(policy, 0.1 * (step + 1))
        policy.update_ema()
        for name, value in policy.parameters.items():
            expected[name] = 0.75 * expected[name] + 0.25 * value.detach()
    trained = {name: value.detach().clone() for name, value in policy.parameters.items()}
    with policy.ema_weights():
        for name, value in policy.parameters.items():
            torch.testing.assert_close(value.detach(), expected[name])
    with pytest.raises(KeyboardInterrupt), policy.ema_weights():
        raise KeyboardInterrupt
    for name, value in policy.parameters.items():
        assert torch.equal(value, trained[name]), "the trained weights are back"


@both_methods
def test_a_state_comes_back(method: str, make_policy: MakePolicy) -> None:
    policy, other = make_policy(method), make_policy(method)
    move(policy)
    policy.update_ema()
    other.load_state_dict(policy.state_dict())
    assert torch.equal(predict(other), predict(policy))
    with policy.ema_weights(), other.ema_weights():
        assert torch.equal(predict(other), predict(policy))


class Replacing(OneProcess):
    """Replaces every parameter, as sharding does, and notes what it has wrapped."""

    def __init__(self) -> None:
        self.wrapped: list[nn.Module] = []

    def wrap(self, module: nn.Module) -> None:
        self.wrapped.append(module)
        for part in module.modules():
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))


@both_methods
def test_parameters_are_collected_after_the_network_was_wrapped(method: str, make_policy: MakePolicy) -> None:
    parallel = Replacing()
    policy = make_policy(method, parallel)
    network = denoiser(policy)
    assert network in parallel.wrapped and len(parallel.wrapped) == (2 if method == "full" else 1)
    now = dict(network.named_parameters())
    assert all(value is now[name] for name, value in policy.parameters.items())


def test_a_network_that_cant_recompute_activations_is_an_error(make_policy: MakePolicy, monkeypatch: Any) -> None:
    network = type(denoiser(make_policy("full")))
    monkeypatch.setattr(network, "_supports_gradient_checkpointing", False)
    with pytest.raises(InputError, match=f"{network.__name__} does not support it"):
        make_policy("full", gradient_checkpointing=True)
