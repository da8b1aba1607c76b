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
    margin_power_clip: float = Field(
        0.0, ge=0, le=100, description="a clip preference weighs |margin| ** power; 0: all count alike"
    )
    margin_power_patch: float = Field(
        1.0, ge=0, le=100, description="a patch preference weighs |margin| ** power; 0: all count alike"
    )
    tie: float = Field(0.0, ge=0, le=1e6, description="patch margins up to this size express no preference")

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


ObjectiveOptions = GranDPOOptions | SftOptions | NftOptions
