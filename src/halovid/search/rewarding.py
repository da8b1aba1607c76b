"""The rewards of latents, for searches that choose between clips by them."""

from __future__ import annotations

from torch import Tensor

from halovid.models import Sampler
from halovid.records import PromptBatch, Rewards
from halovid.rewards.rewarder import Rewarder
from halovid.store.errors import InputError


def reward_latents(model: Sampler, rewarder: Rewarder, latents: Tensor, prompts: PromptBatch) -> Rewards:
    """The rewards of the clips that latents [B, C, T, h, w] decode to; those of a clip that is refused are NaN.

    Raises:
        InputError: the rewarder refuses a clip but might reward it later, as while its server is down: a choice would
            not be among all clips.
    """
    rewards = rewarder.reward(model.decode_video(latents), prompts)
    for refusal in rewards.refusals:
        if refusal is not None and refusal.again:
            raise InputError(f"a clip can't be compared with others: {refusal.reason}; run it again")
    return rewards
