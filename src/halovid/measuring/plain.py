"""Instruments that need no model: formulas on pixels."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from halovid.config.run import RunConfig
from halovid.maths import video_metrics
from halovid.records import ClipBatch, Measure
from halovid.store.work import Skip

_GROUP = "Model-free"


class DiversityInstrument:
    """How far each clip is from the other samples of its prompt."""

    measures: ClassVar[dict[str, Measure]] = {"diversity": Measure("diversity", _GROUP, "%", "same")}

    @classmethod
    def open(cls, config: RunConfig, run_dir: Path) -> DiversityInstrument:
        """The instrument; it reads nothing of the recipe or the run."""
        return cls()

    def measure(self, clips: ClipBatch, skip: Skip) -> dict[str, Tensor]:
        """The distance in per cent of the full range of pixels, [B]; NaN for the only sample of a prompt."""
        distance = video_metrics.diversity_of_groups(clips.video, clips.prompt_ids)  # in 0..2, as pixels are in -1..1
        return {"diversity": 50 * distance}


class PlainInstrument:
    """Flickering, stability and motion of each clip."""

    measures: ClassVar[dict[str, Measure]] = {
        "temporal_flickering": Measure("temporal flickering (VBench formula)", _GROUP, "", "higher"),
        "adjacent_frame_ssim": Measure("SSIM of adjacent frames", _GROUP, "", "higher"),
        "flow_warp_error": Measure("flow warp error", _GROUP, "", "lower"),
        "flow_magnitude": Measure("flow magnitude", _GROUP, "px/frame", "same"),
    }

    @classmethod
    def open(cls, config: RunConfig, run_dir: Path) -> PlainInstrument:
        """The instrument; it reads nothing of the recipe or the run."""
        return cls()

    def measure(self, clips: ClipBatch, skip: Skip) -> dict[str, Tensor]:
        """Measure id -> its value for each clip, [B]; NaN for a single frame. Formulas: `maths.video_metrics`."""
        if clips.video.shape[2] == 1:
            return {name: torch.full((len(clips.video),), torch.nan) for name in self.measures}
        flow = video_metrics.estimate_flow(clips.video)
        return {
            "temporal_flickering": video_metrics.temporal_flickering(clips.video),
            "adjacent_frame_ssim": video_metrics.ssim_stability(clips.video),
            "flow_warp_error": video_metrics.flow_warp_error(clips.video, flow),
            "flow_magnitude": video_metrics.dynamic_degree(clips.video, flow),
        }
