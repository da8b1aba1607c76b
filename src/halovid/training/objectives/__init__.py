"""The training objectives (losses), in `OBJECTIVES` by the name that recipes use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halovid.config.objectives import ObjectiveOptions
from halovid.training.objectives.base import Needs, Objective
from halovid.training.objectives.gran_dpo import GranDPO
from halovid.training.objectives.nft import Nft
from halovid.training.objectives.sft import Sft

__all__ = ["OBJECTIVES", "Needs", "Objective", "make_objective"]

OBJECTIVES: dict[str, Callable[[Any], Objective]] = {"gran_dpo": GranDPO, "sft": Sft, "nft": Nft}


def make_objective(options: ObjectiveOptions) -> Objective:
    """The objective that `options.name` names, built from these options."""
    return OBJECTIVES[options.name](options)
