"""The embedded world's inspector as a judge: the truth on the rating scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from halovid.config.run import JudgeConfig
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import DEFECT_RATING, HIGHEST, LOWEST, Judgement, Refusal, Request
from halovid.world.captions import parse_caption
from halovid.world.inspector import Inspection, inspect
from halovid.world.scenes import SceneSpec
from halovid.world.worlds import World, world_of


class InspectorJudge:
    """Rates clips of the embedded world by `inspect`; other prompts are refused."""

    name = "inspector-1"

    def __init__(self, grid: PatchGrid) -> None:
        self._grid = grid

    def judge(self, requests: Sequence[Request], geometry: LatentGeometry) -> list[Judgement | Refusal]:
        """The true ratings of each clip; a prompt that is no caption of the world gives a refusal."""
        specs = [_spec(request) for request in requests]
        readable = {index: spec for index, spec in enumerate(specs) if isinstance(spec, SceneSpec)}
        rated: dict[int, Judgement] = {}
        if readable:
            video = torch.stack([requests[index].video for index in readable])
            inspection = inspect(video, list(readable.values()), self._grid)
            rated = {index: _rate(inspection, row) for row, index in enumerate(readable)}
        return [spec if isinstance(spec, Refusal) else rated[index] for index, spec in enumerate(specs)]


def open_inspector(config: JudgeConfig, grid: PatchGrid, seed: int) -> InspectorJudge:
    """The inspector, which has no settings."""
    return InspectorJudge(grid)


def _spec(request: Request) -> SceneSpec | Refusal:
    """What the caption says, unless the inspector can't measure such a clip."""
    try:
        world_of(request.video.shape)
        return parse_caption(request.prompt)
    except ValueError as error:
        return Refusal(str(error))


def _rate(inspection: Inspection, row: int) -> Judgement:
    """The ratings of one of the inspected clips."""
    patches = {
        "visual_quality": _patch_rating(inspection.patch_defects[row], inspection.world),
        "temporal_consistency": _patch_rating(inspection.patch_flicker[row], inspection.world),
    }
    rated = inspection.sprite_patches[row] | inspection.defective[row]
    clip = {aspect: _mean(rating[rated]) for aspect, rating in patches.items()}
    clip["dynamic_degree"] = _scale(float((inspection.motion[row] / inspection.world.full_motion).clamp(max=1)))
    clip["text_alignment"] = _scale(float((inspection.colour_right[row] & inspection.shape_right[row]).float().mean()))
    clip["factual_consistency"] = _scale(float((inspection.visibility[row] > 0).float().mean()))
    return Judgement(clip, patches)


def _patch_rating(distance: Tensor, world: World) -> Tensor:
    """Ratings of distances: 5 up to half the defect threshold, DEFECT_RATING at the threshold, down to 1, linearly."""
    low = 0.5 * world.defect_threshold
    slope = (HIGHEST - DEFECT_RATING) / (world.defect_threshold - low)
    return (HIGHEST - slope * (distance - low)).clamp(LOWEST, HIGHEST)


def _scale(share: float) -> float:
    """A share in 0..1 as a rating."""
    return LOWEST + (HIGHEST - LOWEST) * share


def _mean(values: Tensor) -> float:
    """The mean; the best rating when there are no values, as in a clip without sprites."""
    return float(values.mean()) if values.numel() else HIGHEST
