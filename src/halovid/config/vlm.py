"""The configuration of the judge that asks vision-language models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from halovid.config.endpoints import BudgetConfig, CallConfig, ModelConfig
from halovid.config.sections import ASPECTS, Aspect, Execution


class VlmConfig(ModelConfig, CallConfig):
    """A vision-language model as the judge, alone or with a panel of others: what is asked and how."""

    panel: tuple[ModelConfig, ...] = Field((), max_length=100, description="further models that vote")
    aspects: tuple[Aspect, ...] = Field(ASPECTS, min_length=1, description="what whole clips are rated by")
    patch_aspects: tuple[Aspect, ...] = Field(
        ("visual_quality", "temporal_consistency"), min_length=1, description="what patches are rated by"
    )
    strategy: Literal["patches", "coarse_to_fine", "boxes"] = Field(
        "patches", description="ask for all patches, for those of suspicious times, or for boxes around defects"
    )
    show: Literal["grid", "tubes"] = Field(
        "grid", description="patches as numbered cells of whole frames, or enlarged beside one whole frame"
    )
    clip_frames: int = Field(8, ge=1, le=1000, description="frames shown of a whole clip")
    patch_frames: int = Field(3, ge=1, le=1000, description="frames shown of the time that a patch spans")
    frame_side: int = Field(768, ge=64, le=2048, description="longer side of the frames shown, in pixels")
    patches_per_call: int = Field(24, ge=1, le=10_000, description="patches that one question asks about, at most")
    temperature: float | None = Field(0.0, ge=0, le=2, description="null: not sent, for models that refuse it")
    max_output_tokens: int = Field(4096, ge=64, le=10_000_000, description="longest answer")
    concurrency: Execution[int] = Field(8, ge=1, le=1000, description="calls at the same time")
    budget: Execution[BudgetConfig] = Field(BudgetConfig(), description="what one run of the stage may use at most")

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """All models that vote."""
        return (ModelConfig(**{name: getattr(self, name) for name in ModelConfig.model_fields}), *self.panel)

    @model_validator(mode="after")
    def _consistent(self) -> VlmConfig:
        if self.temperature == 0 and any(model.votes > 1 for model in self.models):
            raise ValueError(
                "temperature is 0, at which several votes of a model are the same: raise it or ask for one"
            )
        names = [(model.model, model.base_url) for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError("panel names a model twice: raise its votes instead")
        priced = [None not in (model.input_price, model.output_price) for model in self.models]
        if self.budget.money is not None and not all(priced):
            raise ValueError("budget.money needs the input_price and output_price of every model")
        return self
