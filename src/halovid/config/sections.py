"""What sections of the configuration have in common: their base, the aspects of ratings, LoRA options."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Aspect = Literal["visual_quality", "temporal_consistency", "dynamic_degree", "text_alignment", "factual_consistency"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)


class Section(BaseModel):
    """A part of the configuration: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty_sections(cls, raw: Any) -> Any:
        """A section whose entries are all commented out is null in YAML: it counts as left out."""
        if not isinstance(raw, dict):
            return raw
        known = cls.model_fields
        empty = {key for key in known if raw.get(key, 0) is None and section_fields(known[key].annotation)}
        return {key: value for key, value in raw.items() if key not in empty}


class LoraOptions(Section):
    """A LoRA adapter; `targets` are the layers' last names, by default the family's attention and feed-forward ones."""

    rank: int = Field(32, ge=1)
    alpha: int = Field(32, ge=1)
    targets: tuple[str, ...] | None = None


def section_fields(section: Any) -> dict[Any, Any]:
    """Field name -> type of a pydantic model or dataclass, also of one that may be None."""
    if isinstance(section, UnionType):
        section = next(part for part in get_args(section) if part is not NoneType)
    if isinstance(section, type) and issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    return dict(getattr(section, "__annotations__", {}))
