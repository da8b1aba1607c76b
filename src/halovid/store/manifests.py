"""Manifests of complete stages, and the checks that their files are still what the stages wrote.

RUN/<stage>/manifest.json is written last, so a stage that has one is complete. It holds the hashes of all outputs and a
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
    """The manifest in a stage's folder, without its checksum; None if there is none.

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
    """The versions of Python and of the packages that results depend on most, by name."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def is_complete(folder: Path, fingerprint: str) -> bool:
    """Whether the folder holds a complete stage of this fingerprint whose outputs are all undamaged.

    Damaged outputs are deleted together with the manifest, so that the stage continues as if it had been interrupted.
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
            if path.resolve().is_relative_to(folder.resolve()):  # a table could name any file
                path.unlink(missing_ok=True)
    return not damaged


def _damaged_outputs(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    """The outputs of a stage, including the files that its tables name, that are missing or not what it wrote."""
    damaged = [folder / name for name, digest in manifest["outputs"].items() if not is_intact(folder / name, digest)]
    for name in manifest["outputs"]:
        if name.endswith(".parquet") and folder / name not in damaged:
            named_files = read_named_files(folder / name)
            damaged += [folder / file for file, digest in named_files if not is_intact(folder / file, digest)]
    return damaged


def check_stage(run_dir: Path, stage: str) -> str:
    """A hash of the settings and outputs of a stage, after checking that the outputs are undamaged.

    The files that its tables name, such as clips, are checked when they are read.

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
    """A hash that identifies the result that a manifest describes."""
    assert manifest is not None
    return hash_value({"fingerprint": manifest["fingerprint"], "outputs": manifest["outputs"]})


def is_current(run_dir: Path, stage: str) -> bool:
    """Whether a stage is complete and was computed from what the stages before it hold now."""
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
    """Whether a stage was imported together with the run's clips instead of computed, see `commands.exchange`."""
    sources = [(read_manifest(run_dir / name) or {}).get("config", {}).get("imported") for name in ("generate", stage)]
    return sources[0] is not None and sources[0] == sources[1]


def read_log(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of a training's log.jsonl: the step and its metrics.

    Raises:
        InputError: the stage is not complete.
        DamageError: the log is missing or damaged.
    """
    check_stage(run_dir, stage)
    lines = (run_dir / stage / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
