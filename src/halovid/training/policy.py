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
from halovid.training.parallel import OneProcess, Parallel


class Policy:
    """A model in training: with a LoRA whose switching-off gives the reference, or whole with a frozen copy.

    The trained parameters have an exponential moving average (EMA), which is what sampling and saving use.

    Raises:
        InputError: the network has no layers of the names that the LoRA is to be put on.
    """

    def __init__(self, model: DiffusionModel, config: AlignConfig, parallel: Parallel | None = None) -> None:
        self.model = model
        [(self._name, denoiser)] = model.denoisers.items()
        parallel = parallel or OneProcess()
        self._frozen: nn.Module | None = None
        if config.method == "lora":
            model.add_lora(config.lora)
        else:
            denoiser.float()  # before the copy: policy and reference must compute alike
            self._frozen = copy.deepcopy(denoiser)
            parallel.wrap(self._frozen)
            denoiser.requires_grad_(True)
        if config.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        for value in denoiser.parameters():
            if value.requires_grad:
                value.data = value.data.float()  # bfloat16 would round small steps, and those of the EMA, away
        parallel.wrap(denoiser)  # before the parameters are collected: it may replace them
        self.parameters = {name: value for name, value in denoiser.named_parameters() if value.requires_grad}
        self.ema = {name: value.detach().clone() for name, value in self.parameters.items()}
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
    def ema_weights(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        live = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._assign(self.ema)
        try:
            yield
        finally:
            self._assign(live)

    @torch.no_grad()
    def update_ema(self) -> None:
        """Moves the average towards the trained weights; to be called after each optimizer step."""
        for name, value in self.parameters.items():
            self.ema[name].lerp_(value, 1 - self._decay)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Trained weights and their average."""
        return {"parameters": dict(self.parameters), "ema": self.ema}

    def load_state_dict(self, state_dict: dict[str, dict[str, Tensor]]) -> None:
        """Takes over what `state_dict` gave."""
        self._assign(state_dict["parameters"])
        for name, value in state_dict["ema"].items():
            self.ema[name].copy_(value)

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)


def snapshot_folder(align_folder: Path, step: int) -> Path:
    """Where alignment keeps the averaged weights of a step of `align.snapshots`."""
    return align_folder / "snapshots" / f"{step:06d}"
