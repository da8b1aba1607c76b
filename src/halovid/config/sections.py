"""What sections of the configuration have in common: their base, the aspects of ratings, LoRA options.

Some settings say how a stage is executed (how many clips at once, how long to wait); results differ by rounding at
most. They are marked as `Execution[...]` and are no part of a result's identity, so that a stage that ran out of memory
continues with a smaller batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from halovid.maths.seeds import HIGHEST_SEED

T = TypeVar("T")
Aspect = Literal["visual_quality", "temporal_consistency", "dynamic_degree", "text_alignment", "factual_consistency"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)

_EXECUTION = object()
Execution = Annotated[T, _EXECUTION]  # the type of a setting that says how a stage is executed, not what comes out


Seed = Annotated[int, Field(ge=0, le=HIGHEST_SEED)]
Batch = Annotated[int, Field(ge=1, le=100_000)]  # items worked on at once
Steps = Annotated[int, Field(ge=1, le=100_000_000)]  # of a training
Rate = Annotated[float, Field(gt=0, le=1000)]  # of learning
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e6)]  # of a term, or a margin
HubName = Annotated[str, Field(min_length=1, max_length=4096)]  # a folder, or an id on the hub


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
    """A LoRA adapter, by default on the attention and feed-forward layers."""

    rank: int = Field(32, ge=1, le=65_536, description="inner width of the adapter's matrices")
    alpha: int = Field(32, ge=1, le=1_000_000, description="the adapter's output is scaled by alpha / rank")
    targets: tuple[str, ...] | None = Field(
        None,
        max_length=1000,
        description="last names of the layers that get an adapter; the model family's when left out",
    )


def result_settings(section: BaseModel) -> dict[str, Any]:
    """The settings of a section that its results depend on, as JSON values: all but those of execution."""
    return _without_execution(section, section.model_dump(mode="json"))


def _without_execution(value: Any, dumped: Any) -> Any:
    """`dumped`, the JSON form of `value`, without the settings that sections in it mark as execution."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        kept = [name for name in dumped if _EXECUTION not in fields[name].metadata]
        return {name: _without_execution(getattr(value, name), dumped[name]) for name in kept}
    if isinstance(value, tuple | list):
        return [_without_execution(*item) for item in zip(value, dumped, strict=True)]
    return dumped


def section_fields(section: Any) -> dict[Any, Any]:
    """Field name -> type of a pydantic model or dataclass; of a union, those of its first type that is not None."""
    section = _alternatives(section)[0]
    if isinstance(section, type) and issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    return dict(getattr(section, "__annotations__", {}))


def locate(root: type[Section], location: Sequence[str | int]) -> tuple[list[str], Any]:
    """The keys that lead to a problem, as a recipe has them, and the type of the last section on the way.

    Args:
        location: as pydantic reports it. Where a section is chosen by its `name`, it has that name as a further part,
            which is no key of the recipe.
    """
    section: Any = root
    keys: list[str] = []
    for part in location:
        named = {_name_of(choice): choice for choice in _alternatives(section)}
        if len(named) > 1 and part in named:
            section = named[part]
            continue
        keys.append(str(part))
        section = _child(section, part)
    return keys, section


def _child(section: Any, part: str | int) -> Any:
    """The type at a key of a section, or in a list or dict of sections; None for a key that it does not know."""
    fields = section_fields(section)
    if part in fields:
        return fields[part]
    inner = get_args(_alternatives(section)[0])
    return inner[0 if isinstance(part, int) else -1] if inner else None


def _alternatives(section: Any) -> list[Any]:
    """The types of a union except None; of any other type, that type alone."""
    if isinstance(section, UnionType) or get_origin(section) is Union:
        return [part for part in get_args(section) if part is not NoneType]
    return [section]


def _name_of(section: Any) -> str | None:
    """The `name` by which a section is chosen among several; None for a section that has none."""
    names = get_args(section_fields(section).get("name"))
    return names[0] if names else None
