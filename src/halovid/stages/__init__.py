"""The stages, one verb per file, each with `run(config, run_dir)`. They meet only on disk: none imports another."""

from __future__ import annotations

import importlib
from pathlib import Path

from halovid.config.run import RunConfig

STAGES = (
    *("generate", "judge", "reward", "good", "restore", "score", "pair", "align"),
    *("baseline", "examine", "evaluate", "report"),
)


def run_stage(name: str, config: RunConfig, run_dir: Path) -> None:
    """Runs one stage; its module is imported only now, so that --help and mistakes in a recipe come at once."""
    importlib.import_module(f"halovid.stages.{name}").run(config, run_dir)
