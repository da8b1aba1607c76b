"""Pretrained models: loading them strictly, and LoRA adapters on them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from halovid.config.sections import LoraOptions
from halovid.store.errors import InputError
from halovid.store.files import hash_folder
from halovid.store.hub import cached_commit, hub_commit
from halovid.store.runtime import announce
from halovid.store.troubles import raise_shortage

# beginnings of the names of weights that only a model's original task needs: they may be left unused
_UNUSED_WEIGHTS = ("lm_head.", "classifier.", "decoder.", "encoder_to_decoder.", "mask_token", "fc_norm.")
_VISION = ("vision", "visual")


def local_folder(model: str) -> Path:
    """The folder of a model: the folder itself, or the snapshot of a hub id, downloaded if it is not there yet.

    Raises:
        InputError: there is no such folder, and the hub has no such model or can't be reached.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=cached_commit(model)))
    except Exception as error:  # what the client of the hub raises without a network changes with its version
        raise_shortage(error)
        raise InputError(f"{model!r} is neither a folder nor a model that the hub gives ({one_line(error)})") from error


def model_identity(model: str | None) -> str | None:
    """A hash of a local model's files, name and commit of one of the hub; None where none is named.

    Raises:
        InputError: there is no such model, or no copy here and the hub can't be asked.
    """
    if model is None:
        return None
    return hash_folder(Path(model)) if Path(model).is_dir() else f"{model}@{hub_commit(model)}"


def check_model(model: str) -> None:
    """Raises InputError when a model is neither a folder nor one of the hub; nothing is read or downloaded."""
    if not Path(model).is_dir():
        hub_commit(model)


def load_config(model: str, kinds: Collection[str] | None = None) -> Any:
    """The transformers configuration of a folder or hub id.

    Raises:
        InputError: there is none that can be read, or it is of another kind than one of `kinds`.
    """
    from transformers import AutoConfig

    folder = local_folder(model)
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever its many parts raise
        raise_shortage(error)
        raise InputError(f"{model!r} has no readable config.json ({one_line(error)})") from error
    if kinds is not None and config.model_type not in kinds:
        raise InputError(f"{model!r} is a {config.model_type!r} model; {', '.join(sorted(kinds))} is needed here")
    return config


def load_base(
    model: str, kinds: Collection[str], dtype: torch.dtype = torch.float32, heads: Collection[str] = ()
) -> Any:
    """The pretrained transformer of a folder or hub id, without the head of its original task.

    Args:
        heads: names of further weights that the files must hold; they are not loaded.

    Raises:
        InputError: it can't be read, is of another kind than one of `kinds`, or its weights do not fit its
            configuration exactly.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    announce(f"load {model}")
    config = load_config(model, kinds)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of keys that it ignores; below they are looked at one by one
    try:
        base, report = AutoModel.from_pretrained(
            local_folder(model),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # named below, with all else that does not fit
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises whatever its many parts raise
        raise_shortage(error)
        raise InputError(f"the weights of {model!r} can't be loaded ({one_line(error)})") from error
    finally:
        logging.set_verbosity(verbosity)
    unexpected = set(report["unexpected_keys"])
    check_keys(
        model,
        missing=set(report["missing_keys"]) | (set(heads) - unexpected),
        unexpected={key for key in unexpected - set(heads) if not key.startswith(_UNUSED_WEIGHTS)},
        misshapen=[f"{key} {tuple(stored)} for {tuple(needed)}" for key, stored, needed in report["mismatched_keys"]],
    )
    return base


def make_base(model: str, kinds: Collection[str], dtype: torch.dtype) -> Any:
    """The transformer of a folder's configuration, without initialised weights; raises what `load_config` raises."""
    from transformers import AutoModel
    from transformers.initialization import no_init_weights

    config = load_config(model, kinds)
    with no_init_weights():  # billions of random numbers would take minutes
        return AutoModel.from_config(config, dtype=dtype)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder.

    Raises:
        InputError: there is none that can be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever its many parts raise
        raise_shortage(error)
        raise InputError(f"{folder} holds no readable tokenizer ({one_line(error)})") from error


def check_keys(source: str, missing: Collection[Any], unexpected: Collection[Any], misshapen: Collection[Any]) -> None:
    """Refuses weights that do not fit a model exactly.

    Raises:
        InputError: there is a missing, unexpected or misshapen weight; up to three of each kind are named.
    """
    problems = [
        f"{len(keys)} {kind} ({', '.join(sorted(map(str, keys))[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if keys
    ]
    if problems:
        raise InputError(f"the weights of {source!r} do not fit the model: {'; '.join(problems)}; download them again")


def add_lora(module: nn.Module, options: LoraOptions) -> None:
    """Freezes a module and puts LoRA adapters, float32, on its linear layers outside a vision tower.

    Raises:
        InputError: `targets` names none of them.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and not any(tower in name for tower in _VISION)
    ]
    targets = [name for name in linear if options.targets is None or name.split(".")[-1] in options.targets]
    if not targets:
        known = sorted({name.split(".")[-1] for name in linear})
        raise InputError(f"reward.lora.targets {options.targets} name no linear layer; there are {', '.join(known)}")
    module.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=targets), module)
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


def one_line(error: Exception) -> str:
    """An error in one line, with its kind where the text alone says nothing."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, (OSError, ValueError, ImportError)) and text else f"{type(error).__name__}: {text}"
