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
PER_MILLE = 1000  # models give positions in a frame in thousandths of its width and height

_Kind = Literal["none", "shape", "texture", "flicker", "identity", "motion", "content", "other"]


_Reason = Annotated[str, AfterValidator(lambda text: keepable(text, MAX_REASON))]
# as an enum, which all endpoints with strict schemas know; not all know minimum and maximum
_Score = Annotated[int, Field(ge=1, le=5), WithJsonSchema({"type": "integer", "enum": [1, 2, 3, 4, 5]})]
_PerMille = Annotated[int, Field(ge=0, le=PER_MILLE), WithJsonSchema({"type": "integer"})]


class _Strict(BaseModel):
    """All fields required, no others allowed, no value converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Rating(_Strict):
    """A model's opinion. The reason comes first, so that the model writes it before it decides on the score."""

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
    left: _PerMille
    top: _PerMille
    right: _PerMille
    bottom: _PerMille

    @property
    def box(self) -> Box:
        """Where and when it is."""
        sides = (side / PER_MILLE for side in (self.left, self.top, self.right, self.bottom))
        return Box(self.first_frame, self.last_frame, *sides)

    @property
    def rating(self) -> Rating:
        """The rating of each patch that it covers."""
        return Rating(reason=self.reason, kind=self.kind, score=self.score)


@dataclass(frozen=True)
class ClipAnswer:
    """Aspect -> rating of the whole clip, and the suspicious times or the defects, where they were asked for."""

    ratings: dict[str, Rating]
    windows: tuple[Window, ...] = ()
    defects: tuple[Defect, ...] = ()


PatchAnswer = dict[int, dict[str, Rating]]  # number of the patch in the question -> aspect -> rating


class ClipForm:
    """The form of an answer about a whole clip."""

    def __init__(self, aspects: Sequence[str], num_frames: int, strategy: str, patch_aspects: Sequence[str]) -> None:
        fields: dict[str, Any] = {"ratings": (_ratings_model(aspects), ...)}
        if strategy == "coarse_to_fine":
            fields["windows"] = (list[Window], ...)
        elif strategy == "boxes":
            aspect = Annotated[str, WithJsonSchema({"type": "string", "enum": list(patch_aspects)})]
            fields["defects"] = (list[create_model("Defect", __base__=Defect, aspect=(aspect, ...))], ...)  # type: ignore[misc]
        self.model = create_model("Clip", __base__=_Strict, **fields)
        self._aspects, self._num_frames, self._patch_aspects = aspects, num_frames, patch_aspects

    def read(self, text: str) -> ClipAnswer:
        """The answer in a model's text.

        Raises:
            ValueError: it is not of the form; the message tells the model what is wrong.
        """
        answer: Any = _parse(self.model, text)
        windows, defects = tuple(getattr(answer, "windows", ())), tuple(getattr(answer, "defects", ()))
        for window in (*windows, *defects):
            if not 0 <= window.first_frame <= window.last_frame < self._num_frames:
                raise ValueError(
                    f"frames {window.first_frame} to {window.last_frame} are not a time in the clip: "
                    f"its frames are 0 to {self._num_frames - 1}"
                )
        for defect in defects:
            if defect.aspect not in self._patch_aspects:
                raise ValueError(f"aspect {defect.aspect[:40]!r} is none of {', '.join(self._patch_aspects)}")
            if defect.left >= defect.right or defect.top >= defect.bottom:
                raise ValueError("a defect must have left < right and top < bottom")
        return ClipAnswer(_ratings_by_aspect(answer.ratings, self._aspects), windows, defects)


class PatchForm:
    """The form of an answer about patches, which have numbers."""

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
        answer: Any = _parse(self.model, text)
        counts = Counter(rated.patch for rated in answer.patches)
        problems = {
            "missing": sorted(set(self._numbers) - counts.keys()),
            "not asked for": sorted(counts.keys() - set(self._numbers)),
            "given more than once": sorted(number for number, count in counts.items() if count > 1),
        }
        sentences = [f"patches {_list_numbers(numbers)} are {what}" for what, numbers in problems.items() if numbers]
        if sentences:
            raise ValueError("; ".join(sentences))
        by_number = {rated.patch: _ratings_by_aspect(rated, self._aspects) for rated in answer.patches}
        return {number: by_number[number] for number in self._numbers}


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of an answer, without titles and descriptions: these are for readers of this code."""
    schema: dict[str, Any] = _without_descriptions(model.model_json_schema())
    return schema


def _without_descriptions(node: Any) -> Any:
    """A part of a schema without the titles and descriptions in it."""
    if isinstance(node, dict):
        kept = {name: value for name, value in node.items() if name not in ("title", "description")}
        return {name: _without_descriptions(value) for name, value in kept.items()}
    return [_without_descriptions(value) for value in node] if isinstance(node, list) else node


def _ratings_model(aspects: Sequence[str]) -> type[BaseModel]:
    """A model with a rating for each aspect."""
    fields: dict[str, Any] = {aspect: (Rating, ...) for aspect in aspects}
    return create_model("Ratings", __base__=_Strict, **fields)


def _ratings_by_aspect(answer: Any, aspects: Sequence[str]) -> dict[str, Rating]:
    return {aspect: getattr(answer, aspect) for aspect in aspects}


def _parse(model: type[BaseModel], text: str) -> BaseModel:
    """The value of a JSON text; keys that are given twice, NaN and infinities are errors too."""
    try:
        return model.model_validate(
            json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        )
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise ValueError("; ".join(problems[:5])[:500]) from error
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not valid JSON: {str(error)[:200]}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values; ValueError for a key that is given twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is given twice")
    return values


def _refuse_constant(name: str) -> None:
    """Called for NaN and infinities, which Python's parser would take."""
    raise ValueError(f"{name} is no JSON number")


def _list_numbers(numbers: list[int]) -> str:
    """The first twenty numbers as a list."""
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")
