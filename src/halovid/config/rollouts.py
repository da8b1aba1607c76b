"""The configuration of training on rollouts: clips that the generator makes while it is trained."""

from __future__ import annotations

from pydantic import Field, model_validator

from halovid.config.sections import Section


class RolloutConfig(Section):
    """Groups of clips by the generator as it is, a group for each prompt, rewarded and learned from round by round."""

    prompts: int = Field(8, ge=1, le=1_000_000, description="prompts per round")
    clips: int = Field(6, ge=2, le=10_000, description="clips per prompt, which are compared with each other")
    updates: int = Field(
        8, ge=1, le=100_000_000, description="optimiser steps per round; as many as align.steps: all is made at once"
    )
    random_steps: int = Field(
        0,
        ge=0,
        le=1000,
        description="steps of sampling that draw new noise, as gran_grpo needs; 0: the pipeline's own sampling",
    )
    fresh: float = Field(0.7, gt=0, le=1, description="random_steps: share of the noise that is new")
    lowest: float = Field(0.4, gt=0, lt=1, description="random_steps: lowest noise level that one may start from")
    highest: float = Field(0.9, gt=0, le=1, description="random_steps: highest such level")
    shift: float = Field(
        1.0, gt=0, le=1000, description="random_steps: above 1, sampling spends more steps near noise, as the pipeline"
    )
    shared_start: bool = Field(
        False,
        description="random_steps: the clips of a prompt start from the same noise, and so share what is decided "
        "before the first random step, as their layout",
    )

    @model_validator(mode="after")
    def _consistent(self) -> RolloutConfig:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest {self.lowest} must be below highest {self.highest}")
        if self.shared_start and not self.random_steps:
            raise ValueError("shared_start makes equal clips where no step is random: set random_steps")
        return self
