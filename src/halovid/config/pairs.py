"""The configuration of preference pairs: good clips, clips made anew, and which clips are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from halovid.config.sections import Batch, Execution, HubName, Section, Weight
from halovid.maths.grid import PatchGrid


class GoodConfig(Section):
    """Good clips of the prompts, which no model made."""

    source: HubName = Field(
        "world",
        description="clean renderings ('world', or 'panorama' with generator.model panorama), or a folder of mp4 files "
        "with a prompts.csv (video, prompt)",
    )
    per_prompt: int = Field(3, ge=1, le=10_000, description="clips per prompt, at most")
    batch_size: Execution[Batch] = Field(16, description="clips encoded at once")


class RestoreConfig(Section):
    """Clips that get noise and are denoised by the base model: the same layout, with the model's own defects."""

    source: Literal["good", "candidates", "repaired"] = Field("good", description="which clips are made anew")
    per_prompt: int = Field(3, ge=1, le=10_000, description="clips per prompt")
    most_regions: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="only random boxes are made anew, at most so many per clip; left out: all of it",
    )
    smallest: float = Field(0.25, ge=0.001, le=1, description="side of a box as a share of the clip's, at least")
    largest: float = Field(0.6, ge=0.001, le=1, description="side of a box as a share of the clip's, at most")
    sigma: float = Field(0.8, gt=0, le=1, description="noise level that clips are brought to before they are denoised")
    steps: int = Field(12, ge=1, le=10_000, description="denoising steps from that noise level to the clip")
    batch_size: Execution[Batch] = Field(16, description="clips made anew at once")

    @model_validator(mode="after")
    def _ordered(self) -> RestoreConfig:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} must not be above largest {self.largest}")
        return self

    @property
    def originals(self) -> str:
        """The stage whose clips are made anew."""
        return {"good": "good", "candidates": "generate", "repaired": "repair"}[self.source]


PairSource = Literal["candidates", "repaired", "before_repair", "good", "twins", "restored", "preferences"]
REWARDED: tuple[PairSource, ...] = ("candidates", "repaired", "before_repair", "good", "twins")  # margins by rewards


class PairConfig(Section):
    """Preference pairs."""

    sources: tuple[PairSource, ...] = Field(
        ("candidates",),
        min_length=1,
        description="candidates among each other; repaired clips against the candidates that were not repaired, or "
        "before_repair: each against the candidate that it was made from; good clips against all candidates; clips "
        "against what `restore` made of them (twins: the rewards tell which patches lost; restored: the regions do); "
        "preferences: pairs that somebody compared",
    )
    preferences: Path | None = Field(
        None, description="preferences: a table that `halovid label export --what preferences` wrote"
    )
    strategy: Literal["best_worst", "all", "random"] = Field("best_worst", description="which candidates are paired")
    min_margin: Weight = Field(0.0, description="pairs whose margin between whole clips is not above this are dropped")
    min_motion: float = Field(
        0.0,
        ge=0,
        le=100,
        description="pairs whose chosen clip moves less than this share of what the rejected one does are dropped, by "
        "the optical flow: preferring steadier clips would teach to stand still; 0 keeps all",
    )
    twin_margin: Weight = Field(
        0.1, description="twins: added to the reward margin, since the twin was made from the clip"
    )
    pairs_per_prompt: int = Field(
        3, ge=1, le=1_000_000, description="best_worst: the k best clips against the k worst; random: number of pairs"
    )
    grid: PatchGrid | None = Field(None, description="coarser grid of the patch margins; the judged one if left out")
    rarity_power: float = Field(
        0.0, ge=0, le=100, description="VideoDPO: pairs of rare rewards weigh more; 0 weighs all alike"
    )
    limit: int | None = Field(None, ge=1, le=10**12, description="keep so many pairs, drawn at random")

    @property
    def remade(self) -> list[PairSource]:
        """The sources whose pairs are of clips that `restore` made."""
        return sorted({source for source in self.sources if source in ("twins", "restored")})
