"""The conditionings (encoded prompts) of a clip folder: written once, read whenever clips are sampled.

FOLDER/prompts/ID.safetensors            the conditioning of a prompt
FOLDER/prompts/negative-HASH.safetensors that of the negative prompt, for classifier-free guidance
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from halovid.config.run import RunConfig
from halovid.maths.grid import LatentGeometry
from halovid.models import open_model
from halovid.records import Conditioning, Prompt
from halovid.store.checkpoint import is_readable
from halovid.store.errors import DamageError, InputError
from halovid.store.files import atomic_path, write_json
from halovid.store.runtime import progress


def write_geometry(folder: Path, geometry: LatentGeometry) -> None:
    """Writes geometry.json: the strides of the autoencoder that the clips of the folder were made with."""
    write_json(folder / "geometry.json", dataclasses.asdict(geometry))


def encode_conditions(folder: Path, prompts: Sequence[Prompt], config: RunConfig) -> None:
    """Writes the geometry, and those conditionings of the prompts and the negative prompt that are missing or damaged.

    Text encoders are loaded only if there are any, and are freed afterwards. Each prompt is encoded alone, so that its
    conditioning does not depend on the other prompts.
    """
    texts: dict[Path, str | None] = {condition_path(folder, prompt.prompt_id): prompt.text for prompt in prompts}
    texts[_negative_path(folder, config)] = None  # the recipe's negative prompt
    missing = {path: text for path, text in texts.items() if not is_readable(path)}
    if not missing and (folder / "geometry.json").exists():
        return
    model = open_model(config, {"text"})
    write_geometry(folder, model.geometry)
    with progress("encode prompts", len(missing)) as advance:
        for path, text in missing.items():
            encoded = model.encode_negative() if text is None else model.encode_prompts([text])
            encoded.save(path)
            advance()


def copy_conditions(source: Path, target: Path) -> None:
    """Copies the conditionings and geometry.json of a clip folder to another one of the same prompts and model."""
    for path in [source / "geometry.json", *sorted((source / "prompts").glob("*.safetensors"))]:
        with atomic_path(target / path.relative_to(source)) as temporary:
            shutil.copyfile(path, temporary)


def read_conditioning(folder: Path, prompt_ids: Sequence[str]) -> Conditioning:
    """The conditioning of these prompts, a row each.

    Raises:
        InputError: the clips of the folder were imported without encoding their prompts.
        DamageError: a file is missing or damaged.
    """
    if not (folder / "prompts").exists() and (folder / "sources.parquet").exists():
        raise InputError(
            f"the prompts of the clips imported into {folder} are not encoded; import them again with --recipe"
        )
    return Conditioning.cat([_load(condition_path(folder, prompt_id)) for prompt_id in prompt_ids])


def read_negative(folder: Path, config: RunConfig) -> Conditioning:
    """The conditioning of the recipe's negative prompt.

    Raises:
        DamageError: it is missing or damaged.
    """
    return _load(_negative_path(folder, config))


def _load(path: Path) -> Conditioning:
    """The conditioning in a stage's file; DamageError if it is missing or not what the stage wrote."""
    try:
        return Conditioning.load(path)
    except InputError as error:
        raise DamageError(path, path.parents[1].name) from error


def condition_path(folder: Path, prompt_id: str) -> Path:
    """The file that holds the conditioning of a prompt."""
    return folder / "prompts" / f"{prompt_id}.safetensors"


def _negative_path(folder: Path, config: RunConfig) -> Path:
    """The file of the recipe's negative prompt; its name holds a hash of the text, so that each text has its own."""
    digest = hashlib.sha256(config.generator.negative_prompt.encode()).hexdigest()
    return condition_path(folder, f"negative-{digest[:12]}")
