"""What the training objectives can be told: one section per objective, chosen by its name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from halovid.config.sections import Section, Weight


class GranDPOOptions(Section):
    """Gran-DPO, a weighted sum: preferences of clips and of patches, the anchor, plain denoising, drift.

    With lambda_patch and lambda_anchor 0 it is Diffusion-DPO. Each beta multiplies *mean* squared errors and has no
    factor 1/2: a Diffusion-DPO beta of b is b / 2 here. Clip and patch have a beta each, since the mean over a patch is
    noisier than that over a clip.
    """

    name: Literal["gran_dpo"] = Field("gran_dpo", description="which objective")
    lambda_clip: Weight = Field(1.0, description="weight of the preference between whole clips")
    lambda_patch: Weight = Field(1.0, description="weight of the preferences between patches")
    lambda_anchor: Weight = Field(4.0, description="weight of plain denoising on the patches that won")
    lambda_sft: Weight = Field(0.0, description="weight of plain denoising on the chosen clip")
    lambda_drift: Weight = Field(0.0, description="weight of staying with the reference on the patches that tie")
    beta_clip: float = Field(20.0, gt=0, le=1e6, description="how strongly the clip term pulls towards the reference")
    beta_patch: float = Field(5.0, gt=0, le=1e6, description="how strongly the patch term pulls towards the reference")
    target_accuracy: float | None = Field(
        None,
        gt=0.5,
        lt=1,
        description="both betas follow the training, so that a preference of the mean size is met with this "
        "probability; left out, they stay",
    )
    margin_power_clip: float = Field(
        0.0, ge=0, le=100, description="a clip preference weighs |margin| ** power; 0: all count alike"
    )
    margin_power_patch: float = Field(
        1.0, ge=0, le=100, description="a patch preference weighs |margin| ** power; 0: all count alike"
    )
    tie: float = Field(0.0, ge=0, le=1e6, description="patch margins up to this size express no preference")
    clip_region: Literal["all", "differing"] = Field(
        "all", description="the clip term compares whole clips, or only their patches that differ: one mask per pair"
    )
    patch_signs: Literal["patches", "clip"] = Field(
        "patches",
        description="a patch prefers the clip that is better there, or all prefer the better clip: their margins are "
        "then a map of saliency for one preference",
    )

    @model_validator(mode="after")
    def _has_a_term(self) -> GranDPOOptions:
        if not (self.lambda_clip or self.lambda_patch or self.lambda_anchor or self.lambda_sft):
            raise ValueError("every lambda_* is 0, so that there is nothing to learn: give one of them a weight")
        return self


class SftOptions(Section):
    """Plain denoising of the chosen clip: fine-tuning on the best clips."""

    name: Literal["sft"] = Field("sft", description="which objective")


class NftOptions(Section):
    """DiffusionNFT (arXiv 2509.16117) between the clips of a pair, patch by patch."""

    name: Literal["nft"] = Field("nft", description="which objective")
    beta: float = Field(
        0.1,
        gt=0,
        le=1e6,
        description="how far its two imagined models lie from the reference, as a share of the policy's way",
    )
    certain_margin: float = Field(
        1.0, gt=0, le=1e6, description="patch margin from which on a patch counts as certainly better"
    )


Credit = Literal["patches", "clip"]


class GroupOptions(Section):
    """What all objectives on groups of clips share; they need the section `align.rollouts`."""

    credit: Credit = Field(
        "patches", description="what is compared within a group: each patch with that of the other clips, or clips"
    )
    lambda_drift: Weight = Field(0.0, description="weight of staying with the model as it was before training")


class AdvantageOptions(GroupOptions):
    """What objectives share that ask by how much a clip is better than its group."""

    floor: float = Field(
        0.1, ge=0, le=1e6, description="added to the deviation that rewards are divided by: smaller ones are noise"
    )
    most: float = Field(2.0, gt=0, le=1e6, description="deviations from the group's mean that count in full")


class GranNftOptions(AdvantageOptions):
    """DiffusionNFT (arXiv 2509.16117) with an advantage for each patch."""

    name: Literal["gran_nft"] = Field("gran_nft", description="which objective")
    beta: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="how far its two imagined models lie from the one that made the clips, as a share of the way gone",
    )


class GranAwmOptions(AdvantageOptions):
    """Advantage-weighted matching: a clipped policy gradient on the errors of denoising, patch by patch."""

    name: Literal["gran_awm"] = Field("gran_awm", description="which objective")
    scale: float = Field(1.0, gt=0, le=1e6, description="of errors in the exponent of the ratio")
    reach: float = Field(0.2, gt=0, le=1e6, description="how far the ratio may leave 1 before it earns nothing more")


class GranGrpoOptions(AdvantageOptions):
    """Flow-GRPO (arXiv 2505.05470) with an advantage for each patch, on the random steps of the sampler."""

    name: Literal["gran_grpo"] = Field("gran_grpo", description="which objective")
    reach: float = Field(1e-3, gt=0, le=1e6, description="how far the ratio may leave 1 before it earns nothing more")


class PlackettLuceOptions(GroupOptions):
    """The order of a group's clips by reward as one preference among all of them, patch by patch."""

    name: Literal["plackett_luce"] = Field("plackett_luce", description="which objective")
    beta: float = Field(5.0, gt=0, le=1e6, description="how strongly it pulls towards the reference")
    tie: float = Field(0.0, ge=0, le=1e6, description="patches whose rewards deviate by no more are left out")
    lambda_anchor: Weight = Field(4.0, description="weight of plain denoising on the best patches")


GroupObjectiveOptions = GranNftOptions | GranAwmOptions | GranGrpoOptions | PlackettLuceOptions
ObjectiveOptions = GranDPOOptions | SftOptions | NftOptions | GroupObjectiveOptions
