"""The answers of annotators about a clip or a pair of clips, and the checks that an answer must pass."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from halovid.config.sections import Aspect
from halovid.records import HIGHEST

Mode = Literal["rate", "compare"]
State = Literal["open", "done", "skipped"]
Rating = Annotated[int, Field(ge=1, le=5)]
SOUND = HIGHEST  # the rating of a patch without a mark

ASPECTS: tuple[Aspect, ...] = get_args(Aspect)

# aspect -> the kinds of defect that it may have in a patch
KINDS: dict[Aspect, tuple[str, ...]] = {
    "visual_quality": ("shape", "texture", "other"),
    "temporal_consistency": ("flicker", "identity", "motion", "other"),
    "dynamic_degree": ("motion", "other"),
    "text_alignment": ("content", "other"),
    "factual_consistency": ("content", "motion", "other"),
}


class _Strict(BaseModel):
    """A model that refuses unknown fields and converts no value."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Mark(_Strict):
    """A defect in one patch: its aspect, its kind, and the rating that the patch gets for it."""

    aspect: Aspect
    patch: int = Field(ge=0)
    kind: str
    score: Annotated[int, Field(ge=1, le=4)]

    @model_validator(mode="after")
    def _known_kind(self) -> Mark:
        if self.kind not in KINDS[self.aspect]:
            raise ValueError(f"kind {self.kind!r} of {self.aspect} must be one of {', '.join(KINDS[self.aspect])}")
        return self


class Ratings(_Strict):
    """A rated clip: aspect -> rating of the whole clip, and the marks of its defective patches."""

    scores: dict[Aspect, Rating] = {}
    marks: tuple[Mark, ...] = ()

    def problem(self, num_patches: int, patch_aspects: tuple[str, ...], finished: bool) -> str | None:
        """Why this answer can't be saved, as a sentence; None if it can. A finished one must be complete."""
        marked = [(mark.aspect, mark.patch) for mark in self.marks]
        if any(patch >= num_patches for _, patch in marked):
            return f"a mark lies outside of the {num_patches} patches"
        if len(set(marked)) < len(marked):
            return "a patch is marked twice in one aspect"
        if any(aspect not in patch_aspects for aspect, _ in marked):
            return f"patches are marked in these aspects only: {', '.join(patch_aspects)}"
        missing = [aspect for aspect in ASPECTS if aspect not in self.scores]
        return f"the clip has no rating of {', '.join(missing)}" if finished and missing else None


class PatchPreference(_Strict):
    """Which clip is better at one patch: 1 the first, -1 the second."""

    patch: int = Field(ge=0)
    preference: Literal[-1, 1]


class Comparison(_Strict):
    """Two clips compared: 1 the first is better, -1 the second, 0 neither; unlisted patches are equally good."""

    preference: Literal[-1, 0, 1] | None = None
    patches: tuple[PatchPreference, ...] = ()

    def problem(self, num_patches: int, patch_aspects: tuple[str, ...], finished: bool) -> str | None:
        """Why this answer can't be saved, as a sentence; None if it can. A finished one must be complete."""
        patches = [entry.patch for entry in self.patches]
        if any(patch >= num_patches for patch in patches) or len(set(patches)) < len(patches):
            return f"each of the {num_patches} patches can be named once"
        return "it is not said which clip is better" if finished and self.preference is None else None

    def swapped(self) -> Comparison:
        """The same judgement with the first and the second clip exchanged."""
        patches = tuple(entry.model_copy(update={"preference": -entry.preference}) for entry in self.patches)
        return Comparison.model_construct(preference=self.preference and -self.preference, patches=patches)


Content = Ratings | Comparison
CONTENT: dict[Mode, type[Ratings] | type[Comparison]] = {"rate": Ratings, "compare": Comparison}
