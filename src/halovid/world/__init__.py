"""The embedded world: a place where the truth about every patch is known."""

from __future__ import annotations

from pathlib import Path


def packaged_pipeline() -> Path:
    """The folder of the packaged `WanPipeline`."""
    return Path(__file__).parent / "pipeline"
