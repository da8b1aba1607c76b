"""Instruments that only the embedded worlds have: the inspector, which knows the truth, and the independent critics.

Which world clips are of is told by their size.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from halovid.config.run import RunConfig
from halovid.maths.video_metrics import diversity_of_groups
from halovid.records import ClipBatch, Measure
from halovid.store.work import Skip
from halovid.world.captions import parse_caption
from halovid.world.corruptions import KINDS
from halovid.world.critic import load_critic
from halovid.world.inspector import inspect
from halovid.world.worlds import world_of

_TRUTH, _CRITIC = "Truth (inspector)", "Independent reward model (critic)"


def _defect_id(kind: str) -> str:
    """The id of the measure that is the share of one kind of defect."""
    return f"defect_{kind}"


class InspectorInstrument:
    """Measures the true defects of clips, and of which kind they are."""

    measures: ClassVar[dict[str, Measure]] = {
        "defective_sprite_patches": Measure("defective sprite patches", _TRUTH, "%", "lower"),
        "defective_patches": Measure("defective patches", _TRUTH, "%", "lower"),
        "mean_defect": Measure("mean defect", _TRUTH, "%", "lower"),
        "text_alignment": Measure("text alignment", _TRUTH, "%", "higher"),
        "motion": Measure("motion", _TRUTH, "px/frame", "same"),
        "diversity_without_defects": Measure("diversity without defects", _TRUTH, "%", "same"),
    } | {_defect_id(kind): Measure(f"defect: {kind}", _TRUTH, "%", "lower", defect_kind=kind) for kind in KINDS}

    @classmethod
    def open(cls, config: RunConfig, run_dir: Path) -> InspectorInstrument:
        """The inspector, which needs nothing of the run."""
        return cls()

    def measure(self, clips: ClipBatch, skip: Skip) -> dict[str, Tensor]:
        """Measure id -> its value of each clip, [B].

        Raises:
            ValueError: a prompt is no caption of the embedded world, or no world has clips of this size.
            InputError: the package holds no critic of this world.
        """
        inspection = inspect(clips.video, [parse_caption(row["prompt"]) for row in clips.rows], clips.grid)
        defective, sprites = inspection.defective, inspection.sprite_patches
        per_clip = (1, 2, 3)
        num_sprite_patches = sprites.sum(per_clip).clamp(min=1)
        values = {
            "defective_sprite_patches": 100 * (defective & sprites).sum(per_clip) / num_sprite_patches,
            "defective_patches": 100 * defective.float().mean(per_clip),
            "mean_defect": 100 * inspection.patch_defects.mean(per_clip),
            "text_alignment": 100 * (inspection.colour_right & inspection.shape_right).float().mean(1),
            "motion": inspection.motion,
            "diversity_without_defects": 50 * diversity_of_groups(inspection.nearest, clips.prompt_ids),  # of 0..2
        }
        # the critic names the kind of a defect that the inspector found
        kinds = load_critic(inspection.world).kinds(clips.video, clips.grid)
        for index, kind in enumerate(KINDS):
            of_this_kind = defective & sprites & (kinds == index)
            values[_defect_id(kind)] = 100 * of_this_kind.sum(per_clip) / num_sprite_patches
        return values


class CriticInstrument:
    """Measures clips by the packaged critic: a reward model that no alignment has learned from."""

    measures: ClassVar[dict[str, Measure]] = {
        "critic_defect_probability": Measure("critic: defect probability", _CRITIC, "%", "lower")
    }

    @classmethod
    def open(cls, config: RunConfig, run_dir: Path) -> CriticInstrument:
        """The critic, which needs nothing of the run."""
        return cls()

    def measure(self, clips: ClipBatch, skip: Skip) -> dict[str, Tensor]:
        """The mean probability of a defect over the patches of each clip, in percent, [B].

        Raises:
            ValueError: no world has clips of this size.
            InputError: the package holds no critic of this world.
        """
        critic = load_critic(world_of(clips.video.shape))
        probability = critic.defect_probability(clips.video, clips.grid)
        return {"critic_defect_probability": 100 * probability.mean((1, 2, 3))}
