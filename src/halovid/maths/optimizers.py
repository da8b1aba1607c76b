"""Optimizers: Muon with AdamW, for small networks trained from nothing, and plain AdamW for pretrained weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW:
    """One optimizer of a module: Muon for the weights of its linear and convolution layers.

    AdamW takes biases, norms, embeddings and all other parameters. The size of Muon's updates (Jordan et al. 2024)
    depends on their shape alone; it is scaled to that of AdamW's (`match_rms_adamw`), so both have one learning rate.
    Muon takes matrices only: it gets kernels [out, in, ...] as [out, in * ...] views of the same memory.

    Args:
        rate: learning rate; `set_rate` changes it.
        betas, weight_decay: of AdamW; Muon has the same decay.
    """

    def __init__(
        self, module: nn.Module, rate: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        weights = {id(layer.weight) for layer in module.modules() if isinstance(layer, layers)}
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._weights = [parameter for parameter in trained if id(parameter) in weights]
        self._matrices = [nn.Parameter(_as_matrix(weight.data)) for weight in self._weights]
        remaining = [parameter for parameter in trained if id(parameter) not in weights]
        self._optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] = (
            _Muon(self._matrices, lr=rate, weight_decay=weight_decay),
            torch.optim.AdamW(remaining, lr=rate, betas=betas, weight_decay=weight_decay),
        )

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the next steps."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            weight.grad = matrix.grad = None
        self._optimizers[1].zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.data = _as_matrix(weight.data)
            matrix.grad = None if weight.grad is None else _as_matrix(torch.empty_like(weight).copy_(weight.grad))
        for optimizer in self._optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both optimizers."""
        return {"muon": self._optimizers[0].state_dict(), "adamw": self._optimizers[1].state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        self._optimizers[0].load_state_dict(state["muon"])
        self._optimizers[1].load_state_dict(state["adamw"])


class _Muon(torch.optim.Muon):
    """`torch.optim.Muon` in float32, with `match_rms_adamw`.

    torch's own orthogonalises in bfloat16, which takes a processor without such instructions 20 times as long: nine
    tenths of a whole training step of a small transformer.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Updates every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalised(matrix.grad.lerp(momentum, group["momentum"]), group["ns_coefficients"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int = 5) -> Tensor:
    """A matrix with about the singular vectors of this one and singular values of about 1, from 0.5 to 1.5.

    Source: the quintic Newton-Schulz iteration of Muon (Jordan et al. 2024).

    Args:
        coefficients: of the iteration X (a + b G + c G^2), G the Gram matrix of X.
    """
    a, b, c = coefficients
    is_tall = len(matrix) > matrix.shape[1]
    result = matrix.mT if is_tall else matrix
    result = result / result.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = result @ result.mT
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.mT if is_tall else result


class AdamW(torch.optim.AdamW):
    """AdamW of a module's trained parameters, with the methods of `MuonAdamW`; for pretrained weights."""

    def __init__(self, module: nn.Module, rate: float, weight_decay: float = 0.0) -> None:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        super().__init__(trained, lr=rate, weight_decay=weight_decay)

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the next steps."""
        for group in self.param_groups:
            group["lr"] = rate


def _as_matrix(weight: Tensor) -> Tensor:
    """A kernel [out, in, ...] as a matrix [out, in * ...], in memory order: a view, whatever the memory format."""
    row = weight[0].numel()
    return weight.as_strided((weight.shape[0], row), (row, 1))
