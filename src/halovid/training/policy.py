"""The policy that alignment trains, and the reference it is compared with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from halovid.config.run import AlignConfig
from halovid.models import DiffusionModel


class Policy:
    """A model in training: with a LoRA whose switching-off gives the reference, or whole with a frozen copy.

    The trained parameters have a moving average, which is what sampling and saving use.
    """

    def __init__(self, model: DiffusionModel, config: AlignConfig) -> None:
        self.model = model
        [(self._name, denoiser)] = model.denoisers.items()
        self._frozen: nn.Module | None = None
        if config.method == "lora":
            model.add_lora(config.lora)
        else:
            denoiser.float()  # before the copy: policy and reference must compute alike
            self._frozen = copy.deepcopy(denoiser)
            denoiser.requires_grad_(True)
        if config.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        for value in denoiser.parameters():
            if value.requires_grad:
                value.data = value.data.float()  # bfloat16 would round small steps and the average's away
        self.parameters = {name: value for name, value in denoiser.named_parameters() if value.requires_grad}
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._decay = config.ema

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the model predicts as it did before training, without gradients."""
        if self._frozen is None:
            with torch.no_grad(), self.model.without_lora():
                yield
            return
        policy = self.model.denoisers[self._name]
        self.model.denoisers[self._name] = self._frozen
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.denoisers[self._name] = policy

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        live = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(live)

    @torch.no_grad()
    def update_average(self) -> None:
        """Moves the average towards the trained weights; to be called after each optimiser step."""
        for name, value in self.parameters.items():
            self.average[name].lerp_(value, 1 - self._decay)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Trained weights and their average."""
        return {"parameters": dict(self.parameters), "average": self.average}

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Takes over what `state` gave."""
        self._assign(state["parameters"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)


def snapshot_folder(align_folder: Path, step: int) -> Path:
    """Where alignment keeps the averaged weights of a step of `align.snapshots`."""
    return align_folder / "snapshots" / f"{step:06d}"
