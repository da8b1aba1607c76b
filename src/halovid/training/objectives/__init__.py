"""The training objectives (losses) by the names that recipes use: on pairs, and on groups of clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halovid.config.objectives import ObjectiveOptions
from halovid.training.objectives.base import GroupNeeds, GroupObjective, GroupRewards, Needs, Objective
from halovid.training.objectives.gran_dpo import GranDPO
from halovid.training.objectives.groups import BestAgainstWorst, GranNft, GranPolicyGradient, PlackettLuce
from halovid.training.objectives.nft import Nft
from halovid.training.objectives.sft import Sft

__all__ = [
    "GROUP_OBJECTIVES",
    "OBJECTIVES",
    "GroupNeeds",
    "GroupObjective",
    "GroupRewards",
    "Needs",
    "Objective",
    "make_group_objective",
    "make_objective",
]

OBJECTIVES: dict[str, Callable[[Any], Objective]] = {"gran_dpo": GranDPO, "sft": Sft, "nft": Nft}
GROUP_OBJECTIVES: dict[str, Callable[[Any], GroupObjective]] = {
    "gran_nft": GranNft,
    "gran_awm": GranPolicyGradient,
    "gran_grpo": GranPolicyGradient,
    "plackett_luce": PlackettLuce,
}


def make_objective(options: ObjectiveOptions) -> Objective:
    """The objective on pairs that `options.name` names, built from these options."""
    return OBJECTIVES[options.name](options)


def make_group_objective(options: ObjectiveOptions) -> GroupObjective:
    """The objective on groups that `options.name` names; one on pairs gets the best and the worst clip of a group."""
    if options.name in OBJECTIVES:
        return BestAgainstWorst(make_objective(options))
    return GROUP_OBJECTIVES[options.name](options)
