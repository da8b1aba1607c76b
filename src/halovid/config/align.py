"""The configuration of the generator's training: on pairs, or on rollouts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from halovid.config.objectives import GranDPOOptions, GroupObjectiveOptions, ObjectiveOptions
from halovid.config.sections import Batch, Execution, LoraOptions, Rate, Section, Seed, Steps
from halovid.maths.noise import SigmaSampling, WeightScheme


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


class AlignConfig(Section):
    """The training of the generator on pairs or rollouts."""

    method: Literal["lora", "full"] = Field("lora", description="train a LoRA adapter, or all weights")
    seed: Seed | None = Field(None, description="seed of the training alone; the run's when left out")
    lora: LoraOptions = Field(LoraOptions(), description="method lora: the adapter")
    objective: ObjectiveOptions = Field(
        GranDPOOptions(),
        discriminator="name",
        description="what training makes small: gran_dpo (left out), sft or nft on pairs; gran_nft, gran_awm, "
        "gran_grpo or plackett_luce on groups of rollouts",
    )
    rollouts: RolloutConfig | None = Field(
        None,
        description="train on clips that the generator makes meanwhile; objectives on pairs get the best and the worst "
        "of each prompt. Left out: on the pairs of stage pair",
    )
    sigma: SigmaSampling = Field(SigmaSampling(), description="how noise levels are drawn")
    timestep_weight: WeightScheme = Field(
        "constant", description="weight of preferences by noise level: all alike, or (1 - sigma)^2 as in Flow-DPO"
    )
    shared_noise: bool = Field(True, description="the clips of a pair or group get the same noise")
    steps: Steps = Field(400, description="optimiser steps")
    batch_size: Batch = Field(4, description="pairs, or groups of rollouts, per optimiser step")
    micro_batches: Execution[int] = Field(
        1, ge=1, le=100_000, description="parts that a batch is cut into, one after another: less memory, the same step"
    )
    learning_rate: Rate = Field(3e-4, description="of AdamW, after the warm-up")
    warmup: int = Field(20, ge=0, le=100_000_000, description="first steps, in which the learning rate grows from 0")
    weight_decay: float = Field(0.0, ge=0, le=1000, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="longer gradients are shortened to it")
    ema: float = Field(
        0.98, ge=0, lt=1, description="decay per step of the averaged weights, which are the result; 0: no averaging"
    )
    checkpoint_every: Execution[Steps] = Field(100, description="steps between states to continue from")
    snapshots: tuple[Steps, ...] = Field(
        (), max_length=10_000, description="steps whose averaged weights are kept as well"
    )
    sample_every: Steps = Field(200, description="steps between clips that are sampled and measured along the way")
    sample_prompts: int = Field(
        8, ge=0, le=10_000, description="prompts whose clips are sampled and measured along the way"
    )
    gradient_checkpointing: Execution[bool] = Field(
        False, description="less memory, more time: activations are computed twice"
    )

    @model_validator(mode="before")
    @classmethod
    def _gran_dpo_when_no_objective_is_named(cls, raw: Any) -> Any:
        objective = raw.get("objective") if isinstance(raw, dict) else None
        if isinstance(objective, dict) and "name" not in objective:
            return raw | {"objective": {"name": "gran_dpo"} | objective}
        return raw

    @model_validator(mode="after")
    def _groups_come_from_rollouts(self) -> AlignConfig:
        name = self.objective.name
        if isinstance(self.objective, GroupObjectiveOptions) and self.rollouts is None:
            raise ValueError(f"objective {name} compares the clips of a group: give it a section `rollouts`")
        if name == "gran_grpo" and self.rollouts is not None and not self.rollouts.random_steps:
            raise ValueError("objective gran_grpo learns from random steps of sampling: set rollouts.random_steps")
        return self

    @model_validator(mode="after")
    def _snapshots_are_reached(self) -> AlignConfig:
        late = [step for step in self.snapshots if step > self.steps]
        if late:
            raise ValueError(f"snapshots has step {late[0]}, and the training ends after steps: {self.steps}")
        return self
