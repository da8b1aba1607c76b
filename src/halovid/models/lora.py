"""LoRA adapters of denoisers: adding, switching off, saving, loading and merging them.

This works for models without diffusers' `add_adapter` too. The saved file is the one that a pipeline's own
`load_lora_weights(folder)` reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from halovid.config.sections import LoraOptions
from halovid.store.errors import InputError
from halovid.store.files import atomic_path
from halovid.store.troubles import raise_shortage

ADAPTER = "halo"  # name of the LoRA that alignment trains
LORA_FILE = "pytorch_lora_weights.safetensors"
_METADATA = "lora_adapter_metadata"


def has_lora(network: nn.Module) -> bool:
    """Whether a network has the adapter that alignment trains."""
    return ADAPTER in _adapters(network)


def _adapters(network: nn.Module) -> dict[str, LoraConfig]:
    """Name -> settings of all adapters that peft has injected into a network."""
    adapters: dict[str, LoraConfig] = getattr(network, "peft_config", {})
    return adapters


def add_lora(network: nn.Module, options: LoraOptions, targets: tuple[str, ...]) -> None:
    """Adds an adapter whose B matrices are zero, so that the network's output does not change yet.

    Raises:
        InputError: no layer has one of these names.
    """
    lora = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, target_modules=list(targets), init_lora_weights="gaussian"
    )
    try:
        inject_adapter_in_model(lora, network, adapter_name=ADAPTER)
    except ValueError as error:
        raise InputError(f"align.lora.targets is {options.targets}: {error}") from error


@contextmanager
def without_lora(network: nn.Module) -> Iterator[None]:
    """A context in which the network computes as if it had no adapter."""
    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save_lora(network: nn.Module, component: str, folder: Path) -> None:
    """Writes the adapter of `network`, which is the pipeline's `component`, to `folder`."""
    weights = get_peft_model_state_dict(network, adapter_name=ADAPTER)
    settings = _adapters(network)[ADAPTER].to_dict()
    tensors = {f"{component}.{name}": value.contiguous() for name, value in weights.items()}
    metadata = {f"{component}.{key}": sorted(v) if isinstance(v, set) else v for key, v in settings.items()}
    # not diffusers' save_lora_weights, which writes the metadata in another order in every process
    with atomic_path(folder / LORA_FILE) as temporary:
        save_file(tensors, temporary, metadata={_METADATA: json.dumps(metadata, sort_keys=True)})


def load_lora(network: nn.Module, component: str, folder: Path) -> None:
    """Adds the adapter that `save_lora` wrote.

    Raises:
        InputError: the file is damaged, or belongs to another model.
    """
    path, prefix = folder / LORA_FILE, f"{component}."
    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads(file.metadata()[_METADATA])
            tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys()}
        lora = LoraConfig(**{name.removeprefix(prefix): value for name, value in settings.items()})
        inject_adapter_in_model(lora, network, adapter_name=ADAPTER)
        expected = get_peft_model_state_dict(network, adapter_name=ADAPTER).keys()
        if expected != tensors.keys():
            raise ValueError(f"its layers differ from the model's: {sorted(expected ^ tensors.keys())[:3]}")
        set_peft_model_state_dict(network, tensors, adapter_name=ADAPTER)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise_shortage(error)
        raise InputError(f"{path} is no undamaged adapter of this model ({error}); run the alignment again") from error


def merge_lora(network: nn.Module) -> None:
    """Adds the adapter's product to the weights that it adapts, and removes the adapter."""
    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge(adapter_names=[ADAPTER])
    recurse_remove_peft_layers(network)
    del network.peft_config
