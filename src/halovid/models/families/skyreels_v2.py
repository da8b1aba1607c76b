"""SkyReels-V2 text-to-video: Wan 2.1's layout with a network class of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from halovid.config.run import GeneratorConfig
from halovid.models.families import wan
from halovid.models.family import read_settings


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    settings = read_settings(folder, "transformer/config.json")
    if settings.get("inject_sample_info") or settings.get("num_frame_per_block", 1) != 1:
        return "was made for diffusion forcing, where latent frames have noise levels of their own; not driven so far"
    return None


FAMILY = dataclasses.replace(wan.FAMILY, problem=_problem)
