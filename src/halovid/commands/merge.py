"""The aligned generator as one pipeline folder without an adapter.

    halovid merge RECIPE.yaml RUN FOLDER

To publish, to use without peft, or as `generator.model` of the next round: new candidates, new labels, aligned again.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from halovid.config.run import RunConfig
from halovid.models import open_generator
from halovid.store.errors import InputError
from halovid.store.folders import read_manifest


def merge(config: RunConfig, run_dir: Path, target: Path) -> None:
    """Writes the run's aligned generator to `target`, whole or not at all.

    Raises:
        InputError: the alignment is not finished, or `target` exists.
    """
    if target.exists():
        raise InputError(f"{target} exists; name a new folder")
    if read_manifest(run_dir / "align") is None:
        raise InputError(f"{run_dir} has no finished alignment; run `halovid align` first")
    generator = open_generator(config)
    generator.load_weights(run_dir / "align" / "weights")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        generator.save_merged(temporary)
        temporary.chmod(0o755)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
