"""The sections of the configuration that speak of reward models: the run's own and released ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from halovid.config.endpoints import BaseUrl, CallConfig, KeyVariable, ModelConfig
from halovid.config.sections import ASPECTS, Aspect, Batch, Execution, HubName, LoraOptions, Rate, Section, Seed, Weight


class RewardConfig(Section):
    """The reward model: video phase, then patch phase."""

    backbone: Literal["conv", "videomae", "vjepa2", "qwen_vl", "smolvlm", "idefics2", "denoiser"] = Field(
        "conv",
        description="architecture: a small convolutional network, a video encoder, a language model that sees, or "
        "heads on the hidden states of the generator's own denoiser, which rate latents without decoding them",
    )
    block: int | None = Field(
        None, ge=0, le=10_000, description="denoiser: whose block's states, counted from 0; left out: the middle one"
    )
    levels: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.1,), min_length=1, max_length=100, description="denoiser: noise levels at which clips are shown to it"
    )
    model: HubName | None = Field(
        None,
        description="folder or hub id of pretrained weights, or of a released video reward model, whose head the video "
        "phase then starts from; left out: conv and videomae learn from nothing",
    )
    start: Path | None = Field(
        None, description="a folder that the stage reward wrote: its model, of the same shape, is trained on"
    )
    seed: Seed | None = Field(None, description="seed of the training alone; the run's when left out")
    method: Literal["full", "lora"] = Field("full", description="pretrained weights: train all, or adapters")
    lora: LoraOptions = Field(LoraOptions(rank=16, alpha=32), description="method lora: the adapter")
    gradient_checkpointing: Execution[bool] = Field(
        False, description="less memory, more time: activations are computed twice"
    )
    frames: int | None = Field(
        None, ge=1, le=10_000, description="language models: frames shown, evenly spaced; all if left out"
    )
    width: int = Field(
        64, ge=16, le=16_384, multiple_of=16, description="features per cell; pretrained models bring their own"
    )
    layers: int = Field(2, ge=1, le=256, description="transformer layers; pretrained models bring their own")
    heads: int = Field(4, ge=1, le=1024, description="attention heads; width must be a multiple of it")
    downscale: int = Field(
        1, ge=1, le=1024, description="whole factor by which clips are reduced before the network sees them"
    )
    patch_size: int = Field(
        8, ge=1, le=1024, description="reduced pixels per token side; some models have a size of their own"
    )
    aspects: tuple[Aspect, ...] = Field(ASPECTS, min_length=1, description="what it rates whole clips by")
    patch_aspects: tuple[Aspect, ...] = Field(
        ("visual_quality", "temporal_consistency"), min_length=1, description="what it rates patches by; among aspects"
    )
    video_steps: int = Field(
        80, ge=0, le=100_000_000, description="steps of the video phase, on ratings of whole clips"
    )
    patch_steps: int = Field(
        260, ge=0, le=100_000_000, description="steps of the patch phase, on ratings of patches and of whole clips"
    )
    batch_size: Batch = Field(16, description="clips per optimiser step")
    learning_rate: Rate = Field(4e-3, description="for Muon; pretrained weights take AdamW, some 1e-5 to 2e-4")
    loss: Literal["regression", "bradley_terry"] = Field(
        "regression", description="ratings as such, or only which of two clips or patches is rated higher"
    )
    tie: Weight = Field(0.25, description="bradley_terry: ratings that differ by no more are a tie")
    partners: int = Field(
        4, ge=1, le=10_000, description="bradley_terry: how many others each clip or patch is compared with per step"
    )
    crops: int = Field(
        8, ge=0, le=10_000, description="patches per step rated as clips of their own, for `crop` scoring"
    )
    video_weight: Weight = Field(0.3, description="weight of the clip term during the patch phase")
    mirror: tuple[Literal["horizontal", "vertical"], ...] = Field(
        ("horizontal",), description="training clips are mirrored at random along these axes"
    )
    held_out: float = Field(0.15, gt=0, le=0.9, description="share of the prompts kept for the agreement figures")

    @model_validator(mode="after")
    def _consistent(self) -> RewardConfig:
        extra = set(self.patch_aspects) - set(self.aspects)
        if extra:
            raise ValueError(f"patch_aspects {sorted(extra)} are not among aspects {list(self.aspects)}")
        if self.start is not None and self.model is not None:
            raise ValueError("start and model are two beginnings: name one of them")
        if self.backbone == "conv" and self.patch_size & (self.patch_size - 1):
            raise ValueError(f"patch_size {self.patch_size} must be a power of two for the conv backbone, which halves")
        if self.backbone == "denoiser" and self.model is not None:
            raise ValueError("backbone denoiser is the generator's own network: leave out model")
        if self.backbone not in ("conv", "videomae", "denoiser") and self.model is None:
            raise ValueError(f"backbone {self.backbone} has pretrained weights: name their folder or hub id as model")
        if self.method == "lora" and self.model is None:
            raise ValueError("method lora adapts pretrained weights: name their folder or hub id as model")
        if self.loss == "bradley_terry" and self.batch_size < 2:
            raise ValueError("loss bradley_terry compares clips: batch_size must be at least 2")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class ServerConfig(CallConfig):
    """A reward model that writes its scores, behind an OpenAI-compatible server such as vLLM."""

    family: Literal["videoscore2", "unifiedreward"] = Field(
        description="which model it is: how it is asked and answers"
    )
    model: str = Field(min_length=1, max_length=500, description="the name by which the server knows it")
    base_url: BaseUrl = Field(description="address of the server, as http://127.0.0.1:8000/v1")
    key_variable: Execution[KeyVariable | None] = Field(
        None, description="environment variable of the key; null: no key"
    )
    frames_per_second: float = Field(2.0, ge=0.01, le=1000, description="frames shown per second of a clip")
    question: Path | None = Field(
        None, description="text file with the question as the model's authors ask it, {prompt} in it"
    )
    max_output_tokens: int = Field(1024, ge=64, le=10_000_000, description="longest answer")
    attempts: Execution[int] = Field(
        3, ge=1, le=1000, description="calls for one answer, when it is missing or has no scores"
    )

    @property
    def endpoint(self) -> ModelConfig:
        """The same model in the terms of the client that asks it."""
        return ModelConfig(model=self.model, base_url=self.base_url, key_variable=self.key_variable)


class ScoreConfig(Section):
    """How the reward model scores patches."""

    scoring: Literal["dense", "crop"] = Field(
        "dense",
        description="all patches in one pass over the clip, or each patch cut out and rated as a clip of its own",
    )
    batch_size: Execution[Batch] = Field(32, description="clips scored at once")
    trained: Path | None = Field(
        None,
        description="folder of a reward model that another run has trained, as RUN/reward; it takes the place of "
        "the run's own",
    )
    released: HubName | None = Field(
        None, description="folder or hub id of a released video reward model that scores instead of the run's own"
    )
    server: ServerConfig | None = Field(None, description="a released reward model that a server runs")

    @property
    def uses_network(self) -> bool:
        """Whether a reward network of halovid's gives the rewards, and not a released or served model."""
        return self.released is None and self.server is None

    @property
    def uses_run_network(self) -> bool:
        """Whether the reward network that the run itself trains gives the rewards."""
        return self.uses_network and self.trained is None

    @model_validator(mode="after")
    def _one_model(self) -> ScoreConfig:
        named = [name for name in ("trained", "released", "server") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} name {len(named)} reward models; keep one")
        return self
