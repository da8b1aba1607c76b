"""The embedded worlds: places where the truth about every patch is known."""

from __future__ import annotations

from pathlib import Path

from halovid.store.errors import InputError

PANORAMA_PIPELINE = Path(__file__).parent / "panorama"  # where the training of that world puts its pipeline


def packaged_pipeline() -> Path:
    """The folder of the packaged `WanPipeline` of the plain world."""
    return Path(__file__).parent / "pipeline"


def packaged_panorama() -> Path:
    """The folder of the `WanPipeline` of the panorama world.

    Raises:
        InputError: this copy of the package has none.
    """
    if not PANORAMA_PIPELINE.is_dir():
        raise InputError(
            "generator.model is 'panorama', and this copy of halovid comes without the generator of that world: name "
            "'world', or train it with `python -m halovid.world_training all WORK --world panorama`"
        )
    return PANORAMA_PIPELINE
