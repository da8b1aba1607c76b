"""Manifests: what a finished stage tells of itself, and whether its files are still what it wrote.

RUN/<stage>/manifest.json is written last, so a stage with one is complete. It holds the hashes of all outputs and a
checksum of itself; tables hold the hashes of the files that they name.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from halovid.store.errors import DamageError, InputError
from halovid.store.files import hash_value, is_intact, write_json
from halovid.store.runtime import console
from halovid.store.tables import read_named_files

_PACKAGES = ("halovid", "torch", "diffusers", "transformers", "peft", "safetensors", "pyarrow", "av")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None when there is none.

    Raises:
        InputError: the manifest is damaged, or not that of a stage.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run the stage again") from error
    if not isinstance(manifest, dict) or manifest.pop("checksum", None) != hash_value(manifest):
        raise InputError(f"{path} is not what a stage wrote; delete it and run the stage again")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest of a stage, which makes it complete, with a checksum of its own."""
    write_json(folder / "manifest.json", manifest | {"checksum": hash_value(manifest)})


def versions() -> dict[str, str]:
    """Python's and the main packages' versions."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | found


def is_complete(folder: Path, fingerprint: str) -> bool:
    """True when the folder holds a finished stage of this fingerprint whose outputs are all undamaged.

    What is damaged is deleted, so that it is made anew, and the stage counts as interrupted.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest["fingerprint"] != fingerprint:
        return False
    damaged = _damaged_outputs(folder, manifest)
    if damaged:
        names = ", ".join(str(path.relative_to(folder)) for path in damaged[:5])
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        console.print(f"{folder.name}: {names}{more} missing or damaged, made again", style="yellow")
        (folder / "manifest.json").unlink()
        for path in damaged:
            if path.resolve().is_relative_to(folder.resolve()):  # whatever a foreign table may name
                path.unlink(missing_ok=True)
    return not damaged


def _damaged_outputs(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    """The files of a finished stage, those named in its tables included, that are missing or not what it wrote."""
    damaged = [folder / name for name, digest in manifest["outputs"].items() if not is_intact(folder / name, digest)]
    for name in manifest["outputs"]:
        if name.endswith(".parquet") and folder / name not in damaged:
            named = read_named_files(folder / name)
            damaged += [folder / file for file, digest in named if not is_intact(folder / file, digest)]
    return damaged


def check_stage(run_dir: Path, stage: str) -> str:
    """Identity of what a stage wrote: its settings and outputs, which are checked to be undamaged.

    The files that its tables name, as clips, are checked by those who read them.

    Raises:
        InputError: the stage is not complete.
        DamageError: an output is missing or damaged.
    """
    manifest = read_manifest(run_dir / stage)
    if manifest is None:
        raise InputError(f"the stage {stage!r} is not complete in {run_dir}; run `halovid {stage}` first")
    for name, digest in manifest["outputs"].items():
        if not is_intact(run_dir / stage / name, digest):
            raise DamageError(run_dir / stage / name, stage)
    return _result_hash(manifest)


def _result_hash(manifest: dict[str, Any] | None) -> str:
    """Identity of the result that a manifest describes."""
    assert manifest is not None
    return hash_value({"fingerprint": manifest["fingerprint"], "outputs": manifest["outputs"]})


def is_current(run_dir: Path, stage: str) -> bool:
    """True when a stage is complete and was made from what the stages before it hold now."""
    manifest = read_manifest(run_dir / stage)
    if manifest is None:
        return False
    if "imported" in manifest["config"] and not is_imported(run_dir, stage):
        return False
    return all(
        is_current(run_dir, name) and _result_hash(read_manifest(run_dir / name)) == digest
        for name, digest in manifest["inputs"].items()
    )


def is_imported(run_dir: Path, stage: str) -> bool:
    """True when a stage was not run but made from the same data as the run's clips, see `halovid.commands.exchange`."""
    sources = [(read_manifest(run_dir / name) or {}).get("config", {}).get("imported") for name in ("generate", stage)]
    return sources[0] is not None and sources[0] == sources[1]


def read_log(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    """What a training logged at each step.

    Raises:
        InputError: the stage is not complete.
        DamageError: the log is missing or damaged.
    """
    check_stage(run_dir, stage)
    lines = (run_dir / stage / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
