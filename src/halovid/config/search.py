"""The configuration of how clips are improved at inference: best-of-N and repair."""

from __future__ import annotations

from pydantic import Field

from halovid.config.sections import Batch, Execution, Section
from halovid.maths.grid import PatchGrid


class RejectOptions(Section):
    """How best-of-N gives up early: clips are rated while they are noisy, by a reward model with backbone denoiser."""

    level: float = Field(
        0.5, gt=0, lt=1, description="noise level at which clips are rated; one of reward.levels should be near it"
    )
    keep: float = Field(0.25, gt=0, le=1, description="share of the best_of clips that are sampled to the end")


class RepairOptions(Section):
    """How defective regions of a clip are made anew by the model, as long as the rewards rise."""

    rounds: int = Field(5, ge=1, le=1000, description="how often the regions that are still defective are made anew")
    tries: int = Field(1, ge=1, le=1000, description="per round; of several the best is kept, region by region")
    threshold: float = Field(4.4, description="patches with a reward below it are defective")
    regions: PatchGrid = Field(
        PatchGrid(1, 2, 2),
        description="what is made anew as a whole: the parts of this coarser grid in which a patch is defective",
    )
    dilation: int = Field(0, ge=0, le=1000, description="patches by which a defective region grows on each side")
    sigma: float = Field(
        0.9, gt=0, le=1, description="noise level that regions are brought to before they are denoised"
    )
    steps: int = Field(12, ge=1, le=10_000, description="denoising steps from that noise level to the clip")
    min_gain: float = Field(0.02, ge=0, description="a region is kept if its mean reward rises by at least that")


class RepairConfig(RepairOptions):
    """Repaired clips of the prompts: good clips for the training, of nothing but the model and its rewards."""

    per_prompt: int = Field(2, ge=1, le=10_000, description="clips per prompt: the candidates with the highest rewards")
    batch_size: Execution[Batch] = Field(16, description="clips that are repaired at once")
