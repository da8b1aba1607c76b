"""The aligned generator as one pipeline folder without an adapter.

    halovid merge RECIPE.yaml RUN FOLDER

To publish, to use without peft, or as `generator.model` of the next round: new candidates, new labels, aligned again.
"""

from __future__ import annotations

from pathlib import Path

from halovid.config.run import RunConfig
from halovid.models import PARTS, open_model
from halovid.store.errors import InputError
from halovid.store.manifests import check_stage
from halovid.store.scratch import scratch_folder


def merge(config: RunConfig, run_dir: Path, target: Path) -> None:
    """Writes the run's aligned generator to `target`, whole or not at all.

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
