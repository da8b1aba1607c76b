"""The policy: the model that alignment trains, with the frozen reference it is compared with and its moving average."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from halovid.config.align import AlignConfig
from halovid.models import DiffusionModel
from halovid.store.errors import InputError
from halovid.training.parallel import OneProcess, Parallel


class Policy:
    """A diffusion model in training, its reference, and an exponential moving average (EMA) of what is trained.

    With `method: lora` an adapter is trained, and the model without it is the reference. Otherwise all weights are
    trained, and the reference is a frozen copy. `parameters` and `ema` hold the trained tensors by name.

    Args:
        model: is changed in place; its denoiser must be open.
        config: method, adapter, gradient checkpointing and the EMA's decay.
        parallel: the processes that share the training; None for one process.

    Raises:
        InputError: the network has no layers of the names that the LoRA is to be put on, or can't recompute
            activations.
    """

    def __init__(self, model: DiffusionModel, config: AlignConfig, parallel: Parallel | None = None) -> None:
        self.model = model
        [(self._denoiser_name, denoiser)] = model.denoisers.items()
        parallel = parallel or OneProcess()
        self._reference_denoiser: nn.Module | None = None
        if config.method == "lora":
            model.add_lora(config.lora)
        else:
            denoiser.float()  # before the copy: policy and reference must compute in the same number format
            self._reference_denoiser = copy.deepcopy(denoiser)
            parallel.wrap(self._reference_denoiser)
            denoiser.requires_grad_(True)
        if config.gradient_checkpointing:
            _checkpoint_gradients(denoiser)
        for value in denoiser.parameters():
            if value.requires_grad:
                value.data = value.data.float()  # in bfloat16 small updates, also those of the EMA, round to nothing
        parallel.wrap(denoiser)  # before the parameters are collected, since it may replace them
        self.parameters = {name: value for name, value in denoiser.named_parameters() if value.requires_grad}
        self.ema = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._behaviour: dict[str, Tensor] = {}
        self._decay = config.ema

    @contextmanager
    def reference(self) -> Iterator[None]:
        """A context in which the model predicts as it did before training, without gradients."""
        if self._reference_denoiser is None:
            with torch.no_grad(), self.model.without_lora():
                yield
            return
        denoiser = self.model.denoisers[self._denoiser_name]
        self.model.denoisers[self._denoiser_name] = self._reference_denoiser
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.denoisers[self._denoiser_name] = denoiser

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """A context in which the model has the averaged weights, to sample with them or to save them."""
        trained = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._set_parameters(self.ema)
        try:
            yield
        finally:
            self._set_parameters(trained)

    def keep_behaviour(self) -> None:
        """Remembers the weights as they are, those that clips are sampled with, for `behaviour`."""
        self._behaviour = {name: value.detach().clone() for name, value in self.parameters.items()}

    @contextmanager
    def behaviour(self) -> Iterator[None]:
        """A context in which the model predicts as it did at `keep_behaviour`, without gradients.

        The trained weights are put aside as they are, so that a backward pass through them stays possible.
        """
        trained = {name: value.data for name, value in self.parameters.items()}
        for name, value in self._behaviour.items():
            self.parameters[name].data = value
        try:
            with torch.no_grad():
                yield
        finally:
            for name, data in trained.items():
                self.parameters[name].data = data

    @torch.no_grad()
    def update_ema(self) -> None:
        """Moves the average towards the trained weights by 1 - `ema`; to be called after each optimizer step."""
        for name, value in self.parameters.items():
            self.ema[name].lerp_(value, 1 - self._decay)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The trained weights and their average, for a checkpoint."""
        return {"parameters": dict(self.parameters), "ema": self.ema}

    def load_state_dict(self, state_dict: dict[str, dict[str, Tensor]]) -> None:
        """Restores what `state_dict` returned."""
        self._set_parameters(state_dict["parameters"])
        for name, value in state_dict["ema"].items():
            self.ema[name].copy_(value)

    @torch.no_grad()
    def _set_parameters(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)


def _checkpoint_gradients(denoiser: nn.Module) -> None:
    """Lets a network compute its activations again in the backward pass; InputError when its class can't."""
    try:
        denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    except ValueError as error:
        raise InputError(
            f"align.gradient_checkpointing is true, and {type(denoiser).__name__} does not support it; leave it out, "
            f"and lower align.batch_size or raise align.micro_batches to save memory"
        ) from error


def snapshot_folder(align_folder: Path, step: int) -> Path:
    """The folder of the averaged weights after a step of `align.snapshots`."""
    return align_folder / "snapshots" / f"{step:06d}"
