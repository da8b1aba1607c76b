"""Merges the trained weights into the generator and saves it as one pipeline folder, without an adapter.

    halovid merge RECIPE.yaml RUN FOLDER

The folder can be published, loaded without peft, or named as `generator.model` of the next round of alignment.
"""

from __future__ import annotations

from pathlib import Path

from halovid.config.run import RunConfig
from halovid.models import PARTS, open_model
from halovid.store.errors import InputError
from halovid.store.manifests import check_stage
from halovid.store.scratch import scratch_folder


def merge(config: RunConfig, run_dir: Path, target: Path) -> None:
    """Writes the run's aligned generator to `target`; a failed merge leaves no folder behind.

    Raises:
        InputError: the alignment is not finished, or `target` exists.
        DamageError: its weights are damaged.
    """
    with scratch_folder(target) as unfinished:
        if target.exists():
            raise InputError(f"{target} exists; name a new folder")
        check_stage(run_dir, "align")
        model = open_model(config, PARTS)
        model.load_weights(run_dir / "align" / "weights")
        model.save_merged(unfinished)
        unfinished.replace(target)
