"""What a model must answer: strict JSON schemas, and readers that accept nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, create_model

from halovid.judges.vlm.boxes import Box
from halovid.remote.redaction import keepable

KINDS = {
    "none": "no defect",
    "shape": "a body or object is deformed, melts, or has too many or too few parts",
    "texture": "smeared, noisy, blocky or blurred surface",
    "flicker": "brightness, colour or texture jumps from frame to frame",
    "identity": "something turns into something else, appears or vanishes without cause",
    "motion": "movement that is impossible, frozen or jerky",
    "content": "what is shown contradicts the description or the facts",
    "other": "any other defect",
}
MAX_REASON = 300  # characters kept of a reason
PER_MILLE = 1000  # places in a frame are told in thousandths of its width and height

_Kind = Literal["none", "shape", "texture", "flicker", "identity", "motion", "content", "other"]


_Reason = Annotated[str, AfterValidator(lambda text: keepable(text, MAX_REASON))]
# enum, not minimum and maximum: endpoints that support strict schemas all know it
_Score = Annotated[int, Field(ge=1, le=5), WithJsonSchema({"type": "integer", "enum": [1, 2, 3, 4, 5]})]
_Place = Annotated[int, Field(ge=0, le=PER_MILLE), WithJsonSchema({"type": "integer"})]


class _Strict(BaseModel):
    """All fields required, no others allowed, no value converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Rating(_Strict):
    """A model's opinion. The reason comes first, so that it is thought of before the score."""

    reason: _Reason
    kind: _Kind
    score: _Score


FAULTLESS = Rating(reason="", kind="none", score=5)


class Window(_Strict):
    """A suspicious time, in frames, both included."""

    reason: _Reason
    first_frame: int
    last_frame: int


class Defect(Window):
    """A defect: when, where (thousandths of the frame), how bad."""

    aspect: str
    kind: _Kind
    score: _Score
    left: _Place
    top: _Place
    right: _Place
    bottom: _Place

    @property
    def box(self) -> Box:
        """Where and when it is."""
        sides = (side / PER_MILLE for side in (self.left, self.top, self.right, self.bottom))
        return Box(self.first_frame, self.last_frame, *sides)

    @property
    def rating(self) -> Rating:
        """What it says of the patches it covers."""
        return Rating(reason=self.reason, kind=self.kind, score=self.score)


@dataclass(frozen=True)
class ClipAnswer:
    """Ratings of the whole clip, and the suspicious times or the defects, when they were asked for."""

    ratings: dict[str, Rating]
    windows: tuple[Window, ...] = ()
    defects: tuple[Defect, ...] = ()


PatchAnswer = dict[int, dict[str, Rating]]  # number -> aspect -> rating


class ClipForm:
    """The form of an answer about a whole clip."""

    def __init__(self, aspects: Sequence[str], num_frames: int, strategy: str, patch_aspects: Sequence[str]) -> None:
        fields: dict[str, Any] = {"ratings": (_ratings_model(aspects), ...)}
        if strategy == "coarse_to_fine":
            fields["windows"] = (list[Window], ...)
        elif strategy == "boxes":
            among = Annotated[str, WithJsonSchema({"type": "string", "enum": list(patch_aspects)})]
            fields["defects"] = (list[create_model("Defect", __base__=Defect, aspect=(among, ...))], ...)  # type: ignore[misc]
        self.model = create_model("Clip", __base__=_Strict, **fields)
        self._aspects, self._num_frames, self._patch_aspects = aspects, num_frames, patch_aspects

    def read(self, text: str) -> ClipAnswer:
        """The answer in a model's text.

        Raises:
            ValueError: it is not of the form; the message tells the model what is wrong.
        """
        found: Any = _read(self.model, text)
        windows, defects = tuple(getattr(found, "windows", ())), tuple(getattr(found, "defects", ()))
        for place in (*windows, *defects):
            if not 0 <= place.first_frame <= place.last_frame < self._num_frames:
                raise ValueError(
                    f"frames {place.first_frame} to {place.last_frame} are not a time in the clip: "
                    f"its frames are 0 to {self._num_frames - 1}"
                )
        for defect in defects:
            if defect.aspect not in self._patch_aspects:
                raise ValueError(f"aspect {defect.aspect[:40]!r} is none of {', '.join(self._patch_aspects)}")
            if defect.left >= defect.right or defect.top >= defect.bottom:
                raise ValueError("a defect must have left < right and top < bottom")
        return ClipAnswer(_ratings(found.ratings, self._aspects), windows, defects)


class PatchForm:
    """The form of an answer about some patches, told by their numbers."""

    def __init__(self, aspects: Sequence[str], numbers: Collection[int]) -> None:
        number = Annotated[int, WithJsonSchema({"type": "integer", "enum": sorted(numbers)})]
        fields: dict[str, Any] = {"patch": (number, ...)} | {aspect: (Rating, ...) for aspect in aspects}
        patch = create_model("Patch", __base__=_Strict, **fields)
        self.model = create_model("Patches", __base__=_Strict, patches=(list[patch], ...))
        self._aspects, self._numbers = aspects, numbers

    def read(self, text: str) -> PatchAnswer:
        """The answer in a model's text: exactly the patches asked for, each once, in the order they were asked for.

        Raises:
            ValueError: it is not of the form; the message tells the model what is wrong.
        """
        found: Any = _read(self.model, text)
        counts = Counter(patch.patch for patch in found.patches)
        problems = {
            "missing": sorted(set(self._numbers) - counts.keys()),
            "not asked for": sorted(counts.keys() - set(self._numbers)),
            "given more than once": sorted(number for number, count in counts.items() if count > 1),
        }
        told = [f"patches {_some(numbers)} are {what}" for what, numbers in problems.items() if numbers]
        if told:
            raise ValueError("; ".join(told))
        by_number = {patch.patch: _ratings(patch, self._aspects) for patch in found.patches}
        return {number: by_number[number] for number in self._numbers}


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of an answer, without titles and descriptions, which are for readers of this code."""
    schema: dict[str, Any] = _without_notes(model.model_json_schema())
    return schema


def _without_notes(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without_notes(value) for name, value in node.items() if name not in ("title", "description")}
    return [_without_notes(value) for value in node] if isinstance(node, list) else node


def _ratings_model(aspects: Sequence[str]) -> type[BaseModel]:
    fields: dict[str, Any] = {aspect: (Rating, ...) for aspect in aspects}
    return create_model("Ratings", __base__=_Strict, **fields)


def _ratings(found: Any, aspects: Sequence[str]) -> dict[str, Rating]:
    return {aspect: getattr(found, aspect) for aspect in aspects}


def _read(model: type[BaseModel], text: str) -> BaseModel:
    """The value of a JSON text, where a key given twice and numbers that JSON does not have are errors too."""
    try:
        return model.model_validate(json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ValueError("; ".join(problems[:5])[:500]) from error
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not valid JSON: {str(error)[:200]}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")
