"""Muon and AdamW as one optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from halovid.maths.optimizers import MuonAdamW, orthogonalised
from halovid.store.checkpoint import load_checkpoint, save_checkpoint

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of torch.optim.Muon


class Small(nn.Module):
    """One layer of each sort."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 6)
        self.convolution = nn.Conv3d(6, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(8, 1, 1, 1))
        self.unused = nn.Linear(2, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, 8, 2, 2, 2]."""
        features = self.linear(self.embedding(ids))
        return self.convolution(features[..., None, None, None].expand(-1, -1, 2, 2, 2)) * self.scale


def make(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def train(model: Small, optimizer: MuonAdamW, steps: int) -> list[float]:
    ids, target = torch.arange(5), torch.linspace(-1, 1, 40).view(5, 8, 1, 1, 1)
    losses = []
    for _ in range(steps):
        loss = (model(ids) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_learns() -> None:
    model = make()
    losses = train(model, MuonAdamW(model, 1e-2), 100)
    assert losses[-1] < 0.05 * losses[0]


def test_a_kernel_is_trained_as_the_matrix_of_its_rows() -> None:
    kernel, matrix = nn.Conv3d(6, 8, 3, bias=False), nn.Linear(162, 8, bias=False)
    matrix.weight.data = kernel.weight.data.flatten(1).clone()
    gradient = torch.randn(8, 6, 3, 3, 3)
    kernel.weight.grad, matrix.weight.grad = gradient, gradient.flatten(1)
    for layer in (kernel, matrix):
        MuonAdamW(nn.Sequential(layer, nn.LayerNorm(8)), 1e-2).step()
    assert torch.equal(kernel.weight.flatten(1), matrix.weight)


def test_the_memory_format_of_a_kernel_does_not_matter() -> None:
    """Muon turns rows only: the order of the columns comes back."""
    plain, turned = make(), make()
    turned.convolution.weight.data = turned.convolution.weight.data.contiguous(memory_format=torch.channels_last_3d)
    for model in (plain, turned):
        train(model, MuonAdamW(model, 1e-2), 3)
    start = make().convolution.weight
    assert (plain.convolution.weight - start).abs().mean() > 1e-3
    assert (plain.convolution.weight - turned.convolution.weight).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(6, 6), (4, 11), (11, 4)])
def test_an_update_keeps_the_singular_vectors_and_levels_the_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    update = orthogonalised(matrix, COEFFICIENTS)
    within = left.mT @ update @ right.mT
    torch.testing.assert_close(update, left @ within @ right)  # it lies in the same spaces
    assert (within - torch.diag(within.diag())).abs().max() < 1e-6
    assert 0.5 < within.diag().min() and within.diag().max() < 1.5


def test_a_step_is_that_of_torch_but_for_its_rounding() -> None:
    matrix = nn.Parameter(torch.randn(8, 12, generator=torch.Generator().manual_seed(1)))
    reference = nn.Parameter(matrix.detach().clone())
    torch_muon = torch.optim.Muon([reference], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    layer = nn.Linear(12, 8, bias=False)
    layer.weight = matrix
    ours = MuonAdamW(nn.Sequential(layer, nn.LayerNorm(8)), 1e-2, weight_decay=0.1)
    for step in range(3):
        matrix.grad = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
        reference.grad = matrix.grad.clone()
        torch_muon.step()
        ours.step()
    moved = (matrix.detach() - torch.randn(8, 12, generator=torch.Generator().manual_seed(1))).norm()
    assert (matrix - reference).norm() < 0.02 * moved


@pytest.mark.parametrize("name", ["embedding.weight", "scale", "linear.bias"])
def test_what_is_no_layer_weight_is_left_to_adamw(name: str) -> None:
    model = make()
    before = model.get_parameter(name).detach().clone()
    train(model, MuonAdamW(model, 1e-2), 1)
    step = (model.get_parameter(name) - before).abs()
    assert torch.allclose(step[step > 1e-4], torch.tensor(1e-2), rtol=1e-2)  # Adam's first step is the rate


def test_a_layer_without_gradient_or_out_of_training_stays() -> None:
    model = make()
    model.linear.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, MuonAdamW(model, 1e-2), 3)
    for name in ("unused.weight", "linear.weight", "linear.bias"):
        assert torch.equal(model.state_dict()[name], before[name])


def test_a_rate_of_zero_stops_everything() -> None:
    model = make()
    optimizer = MuonAdamW(model, 1e-2, weight_decay=0.1)
    optimizer.set_rate(0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, optimizer, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_resumed_training_is_equal_to_the_last_bit(tmp_path: Path) -> None:
    whole = make()
    train(whole, MuonAdamW(whole, 1e-2, weight_decay=0.1), 6)
    first = make()
    optimizer = MuonAdamW(first, 1e-2, weight_decay=0.1)
    train(first, optimizer, 3)
    save_checkpoint(tmp_path / "c.safetensors", {"model": first.state_dict(), "optimizer": optimizer.state_dict()})
    second = make(seed=1)
    optimizer = MuonAdamW(second, 1e-2, weight_decay=0.1)
    state = load_checkpoint(tmp_path / "c.safetensors")
    second.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    train(second, optimizer, 3)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())
