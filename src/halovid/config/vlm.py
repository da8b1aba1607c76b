"""The configuration of the judge that asks vision-language models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from halovid.config.sections import ASPECTS, Aspect, Section


class ModelConfig(Section):
    """A vision-language model behind an OpenAI-compatible endpoint. Its key comes from the environment only."""

    model: str = Field("gpt-4o", min_length=1)
    base_url: str = Field("https://api.openai.com/v1", description="OpenAI, Azure (.../openai/v1), vLLM, ...")
    key_variable: str | None = Field("OPENAI_API_KEY", description="environment variable of the key; null: no key")
    votes: int = Field(1, ge=1, description="independent answers to each question")
    input_price: float | None = Field(None, ge=0, description="money per million input tokens")
    output_price: float | None = Field(None, ge=0, description="money per million output tokens")
    image_patch: int | None = Field(
        None, ge=1, description="pixels per side of an image token (Qwen2.5-VL: 28); null: OpenAI's 512-pixel tiles"
    )

    @field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("key_variable must be the name of an environment variable, never the key itself")
        return name

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # its words repeat what may be a key
            is_address = False
        if not is_address:
            raise ValueError("base_url must look like https://host/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("base_url must hold no user, password, query or fragment: keys come from the environment")
        return url.rstrip("/")


class BudgetConfig(Section):
    """What one run of the judge stage may use at most; answers on disk cost nothing."""

    calls: int | None = Field(None, ge=0)
    tokens: int | None = Field(None, ge=0, description="input and output tokens")
    money: float | None = Field(None, ge=0, description="in the currency of the prices")


class VlmConfig(ModelConfig):
    """A vision-language model as the judge, alone or with a panel of others: what is asked and how."""

    panel: tuple[ModelConfig, ...] = Field((), description="further models that vote")
    aspects: tuple[Aspect, ...] = Field(ASPECTS, min_length=1)
    patch_aspects: tuple[Aspect, ...] = Field(("visual_quality", "temporal_consistency"), min_length=1)
    strategy: Literal["patches", "coarse_to_fine", "boxes"] = Field(
        "patches", description="ask for all patches, for those of suspicious times, or for boxes around defects"
    )
    show: Literal["grid", "tubes"] = Field(
        "grid", description="patches as numbered cells of whole frames, or enlarged beside one whole frame"
    )
    clip_frames: int = Field(8, ge=1, description="frames shown of a whole clip")
    patch_frames: int = Field(3, ge=1, description="frames shown of the time of a patch")
    frame_side: int = Field(768, ge=64, le=2048, description="longer side of the frames shown, in pixels")
    patches_per_call: int = Field(24, ge=1)
    temperature: float | None = Field(0.0, ge=0, le=2, description="null: not sent, for models that refuse it")
    max_output_tokens: int = Field(4096, ge=64)
    attempts: int = Field(4, ge=1, description="calls for one answer, when it is missing or wrong")
    first_wait: float = Field(1.0, ge=0, description="seconds before the second attempt; doubles with each")
    longest_wait: float = Field(60.0, ge=0, description="seconds; a server that asks for more is not asked again")
    timeout: float = Field(120.0, gt=0, description="seconds for a call")
    concurrency: int = Field(8, ge=1, description="calls at the same time")
    requests_per_minute: float | None = Field(None, gt=0, description="for each model")
    tokens_per_minute: float | None = Field(None, gt=0, description="for each model")
    budget: BudgetConfig = BudgetConfig()
    answers: Path | None = Field(
        None, description="folder of all answers ever paid for; in the user's cache if left out"
    )

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
