"""The rewards of latents, for searches that choose between clips by them."""

from __future__ import annotations

from torch import Tensor

from halovid.models import Sampler
from halovid.records import PromptBatch, Rewards
from halovid.rewards.rewarder import Rewarder, reward_latents
from halovid.store.errors import InputError


def comparable_rewards(model: Sampler, rewarder: Rewarder, latents: Tensor, prompts: PromptBatch) -> Rewards:
    """The rewards of clips that are there as latents [B, C, T, h, w]; those of a clip that is refused are NaN.

    Raises:
        InputError: the rewarder refuses a clip but might reward it later, as while its server is down: a choice would
            not be among all clips.
    """
    rewards = reward_latents(model, rewarder, latents, prompts)
    for refusal in rewards.refusals:
        if refusal is not None and refusal.again:
            raise InputError(f"a clip can't be compared with others: {refusal.reason}; run it again")
    return rewards
