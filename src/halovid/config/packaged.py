"""The generators that the package carries, by their names in `generator.model`."""

from __future__ import annotations

PACKAGED_SIZES = {"world": (13, 64, 64), "panorama": (17, 96, 96)}  # name -> frames, height and width of its clips
DEFAULT_SIZE = PACKAGED_SIZES["world"]  # of any other model's clips
