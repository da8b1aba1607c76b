"""The typed configuration of a run: one section per stage. `recipes` reads it from YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from halovid.config.align import AlignConfig
from halovid.config.packaged import DEFAULT_SIZE, PACKAGED_SIZES
from halovid.config.pairs import REWARDED, GoodConfig, PairConfig, PairSource, RestoreConfig
from halovid.config.reward import RewardConfig, ScoreConfig
from halovid.config.search import RejectOptions, RepairConfig, RepairOptions
from halovid.config.sections import (
    Batch,
    Execution,
    HubName,
    Section,
    Seed,
    Share,
    Steps,
    result_settings,
)
from halovid.config.vlm import VlmConfig
from halovid.maths.grid import PatchGrid

Split = Literal["train", "heldout"]


class PromptsConfig(Section):
    """Where prompts come from: a file (.txt: one a line; .jsonl, .csv: a `prompt` column), or the embedded world."""

    file: Path | None = Field(None, description="prompt file; leave out to draw captions of the embedded world")
    split: Split = Field("train", description="embedded world: which captions")
    count: int | None = Field(None, ge=1, le=10_000_000, description="how many prompts; all of a file, 64 of the world")
    seed: Seed = Field(0, description="embedded world: which captions")


def _default_size(axis: int) -> Callable[[dict[str, Any]], int]:
    """A function that gives the default frames, height or width of a section's clips, which its model tells."""
    return lambda section: PACKAGED_SIZES.get(section["model"], DEFAULT_SIZE)[axis]


class GeneratorConfig(Section):
    """The text-to-video model and how to sample it."""

    model: HubName = Field(
        "world",
        description="folder or hub id of the pipeline; 'world' and 'panorama' are the packaged ones, of the embedded "
        "worlds",
    )
    revision: str | None = Field(
        None, max_length=100, description="of a model of the hub: branch, tag or commit; its main branch when left out"
    )
    weights: Path | None = Field(
        None, description="folder of trained weights to start from, as RUN/align/weights of an earlier round"
    )
    num_frames: int = Field(
        default_factory=_default_size(0), ge=1, le=10_000, description="frames of a clip; left out: 13, of panorama 17"
    )
    height: int = Field(
        default_factory=_default_size(1),
        ge=8,
        le=16_384,
        multiple_of=8,
        description="height of a clip in pixels; left out: 64, of panorama 96",
    )
    width: int = Field(
        default_factory=_default_size(2),
        ge=8,
        le=16_384,
        multiple_of=8,
        description="width of a clip in pixels; left out: 64, of panorama 96",
    )
    num_inference_steps: int = Field(16, ge=1, le=10_000, description="denoising steps that sample a clip")
    guidance_scale: float = Field(
        1.2, ge=0, le=1000, description="strength of classifier-free guidance; up to 1: none, which halves the work"
    )
    negative_prompt: str = Field(
        "", max_length=10_000, description="what guidance leads away from; empty: the empty prompt"
    )
    fps: float = Field(8.0, ge=0.1, le=1000, description="frames per second at which clips are saved and shown")
    batch_size: Execution[Batch] = Field(16, description="clips sampled at once")


class GenerateConfig(Section):
    """Candidate clips."""

    prompts: PromptsConfig = Field(PromptsConfig(), description="prompts that the training learns from")
    candidates: int = Field(6, ge=1, le=10_000, description="clips per prompt")
    guidance_scales: tuple[Annotated[float, Field(ge=0, le=1000)], ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="guidance of the candidates, in turn: where it differs, the better ones teach what guidance gives; "
        "left out: generator.guidance_scale",
    )


class JudgeConfig(Section):
    """Who labels the candidates."""

    judge: Literal["inspector", "simulated", "table", "openai"] = Field(
        "simulated",
        description="inspector (the embedded world's truth), simulated (that truth with errors), table (labels that "
        "exist already), openai (vision-language models behind OpenAI-compatible endpoints)",
    )
    vlm: VlmConfig = Field(default_factory=VlmConfig, description="openai: the models and how they are asked")
    share: float = Field(1.0, gt=0, le=1, description="share of the patches of each clip asked about, at random")
    questions: Path | None = Field(
        None, description="the patches asked about instead: a table that `halovid select` wrote"
    )
    labels: Path | None = Field(None, description="table: Parquet or JSON Lines file of labels that exist already")
    error_rate: Share = Field(0.1, description="simulated: share of ratings replaced by a random one")
    noise: float = Field(0.5, ge=0, le=100, description="simulated: standard deviation added before rounding to 1..5")

    @model_validator(mode="after")
    def _patches_can_be_left_out(self) -> JudgeConfig:
        if self.share < 1 and self.questions is not None:
            raise ValueError("share and questions both say which patches are asked about: leave one of them out")
        if (self.share < 1 or self.questions) and self.judge == "openai" and self.vlm.strategy == "boxes":
            raise ValueError("judge.vlm.strategy 'boxes' asks about no patches: share and questions have no use")
        return self


class ExamineConfig(Section):
    """The reward model against the truth."""

    clips: int = Field(64, ge=2, le=1_000_000, description="clips of the base on which they are compared")
    crop_clips: int = Field(
        16, ge=0, le=1_000_000, description="clips on which crop scoring, a pass per patch, is measured"
    )


InstrumentName = Literal["inspector", "critic", "judge", "reward", "diversity", "plain"]


class EvaluateConfig(Section):
    """Base against aligned generator, on prompts that no stage has seen."""

    prompts: PromptsConfig = Field(
        PromptsConfig(split="heldout", seed=1), description="prompts that no training has seen"
    )
    samples: int = Field(
        2, ge=1, le=10_000, description="clips per prompt and model; base and aligned share their seeds"
    )
    step: Steps | None = Field(None, description="one of align.snapshots instead of the last step")
    generator: Literal["aligned", "base"] = Field(
        "aligned", description="what is held against the base: the aligned generator, or the base with a search"
    )
    best_of: int = Field(1, ge=1, le=10_000, description="keep the best of so many clips by the reward")
    best_by: Literal["clip", "patch"] = Field("clip", description="reward that best_of compares")
    reject: RejectOptions | None = Field(
        None, description="best_of: rate the clips early, and finish only the promising; left out: all are finished"
    )
    repair: RepairOptions | None = Field(None, description="repair the clips; left out: they stay as sampled")
    instruments: tuple[InstrumentName, ...] = Field(
        ("inspector", "critic", "diversity", "plain"),
        min_length=1,
        max_length=6,
        description="what measures the clips: inspector (the truth) and critic (an independent reward model), both of "
        "the embedded world alone; judge (of this recipe), reward (the reward model), diversity, plain (on pixels)",
    )
    num_resamples: int = Field(
        10_000, ge=100, le=1_000_000, description="bootstrap resamples behind each confidence interval"
    )

    @property
    def searches(self) -> bool:
        """Whether clips are chosen or repaired by their rewards."""
        return self.best_of > 1 or self.repair is not None

    @model_validator(mode="after")
    def _rejects_among_several(self) -> EvaluateConfig:
        if self.reject is not None and self.best_of < 2:
            raise ValueError("reject chooses among the clips of best_of: set best_of to 2 or more")
        return self

    @model_validator(mode="after")
    def _base_searches(self) -> EvaluateConfig:
        if self.generator == "base" and not self.searches:
            raise ValueError("generator is 'base', which would be held against itself: set best_of or repair as well")
        return self


class ReportConfig(Section):
    """The HTML report."""

    title: str = Field("halovid report", max_length=500, description="heading of the page")
    clips: int = Field(
        12, ge=0, le=10_000, description="prompts whose clips by base and aligned generator are shown side by side"
    )


class RunConfig(Section):
    """A whole recipe."""

    seed: Seed = Field(0, description="what all random draws of the run start from")
    device: Execution[str] = Field("auto", max_length=50, description="auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format of the generator's weights; auto: bfloat16 on CUDA, else float32"
    )
    threads: Execution[int | None] = Field(None, ge=1, le=512, description="CPU threads; all when left out")
    generator: GeneratorConfig = Field(GeneratorConfig(), description="the text-to-video model that is aligned")
    grid: PatchGrid = Field(PatchGrid(4, 4, 4), description="patches that a clip is divided into: time, height, width")
    generate: GenerateConfig = Field(GenerateConfig(), description="candidate clips of the base model")
    judge: JudgeConfig = Field(JudgeConfig(), description="who rates candidates and their patches")
    reward: RewardConfig = Field(RewardConfig(), description="the reward model, trained on the judge's ratings")
    score: ScoreConfig = Field(ScoreConfig(), description="rewards of all clips that pairs are made of")
    good: GoodConfig | None = Field(None, description="good clips of the prompts; left out, there are none")
    repair: RepairConfig | None = Field(None, description="repaired candidates; left out, there are none")
    restore: RestoreConfig | None = Field(
        None, description="clips made anew by the base model; left out, there are none"
    )
    pair: PairConfig = Field(PairConfig(), description="preference pairs of clips, by their rewards")
    align: AlignConfig = Field(AlignConfig(), description="the training of the generator on these pairs")
    examine: ExamineConfig = Field(ExamineConfig(), description="the reward model against the truth")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="base against aligned generator on new prompts")
    report: ReportConfig = Field(ReportConfig(), description="the HTML report of all that")

    @property
    def clip_size(self) -> tuple[int, int, int]:
        """Frames, height and width of the generated clips."""
        return self.generator.num_frames, self.generator.height, self.generator.width

    @property
    def reward_size(self) -> tuple[int, int, int]:
        """Frames, height and width at which the reward model sees them; a denoiser sees latents of the full size."""
        if self.reward.backbone == "denoiser":
            return self.clip_size
        frames, height, width = self.clip_size
        return frames, height // self.reward.downscale, width // self.reward.downscale

    @property
    def scored_size(self) -> tuple[int, int, int]:
        """Frames, height and width at which clips are read to be rewarded: released models choose their own."""
        return self.reward_size if self.score.uses_run_network else self.clip_size

    @property
    def align_seed(self) -> int:
        """The seed of the alignment."""
        return self.seed if self.align.seed is None else self.align.seed

    @property
    def reward_seed(self) -> int:
        """The seed of the reward model's training."""
        return self.seed if self.reward.seed is None else self.reward.seed

    @property
    def knows_truth(self) -> bool:
        """Whether the evaluation knows the truth about every patch, as only an embedded world does."""
        return "inspector" in self.evaluate.instruments

    @property
    def scored_folders(self) -> list[str]:
        """The clip folders (stages) whose clips need rewards, since the margins of pairs come from these."""
        if self.align.rollouts is not None:
            return []
        return self._folders_of([source for source in self.pair.sources if source in REWARDED])

    @property
    def paired_folders(self) -> list[str]:
        """The clip folders (stages) that the training reads: those of the pairs' clips, and of the prompts."""
        pairs = self.pair.sources if self.align.rollouts is None else ()
        return self._folders_of([*pairs, "candidates"])

    def _folders_of(self, sources: Sequence[PairSource]) -> list[str]:
        """The clip folders (stages) whose clips these sources pair, in the order of the stages."""
        remade = {"restore", self.restore.originals} if self.restore else set()
        folders: dict[PairSource, set[str]] = {
            "candidates": {"generate"},
            "repaired": {"generate", "repair"},
            "before_repair": {"generate", "repair"},
            "good": {"generate", "good"},
            "twins": remade,
            "restored": remade,
            "preferences": {"generate"},
        }
        needed = {folder for source in sources for folder in folders[source]}
        return [folder for folder in ("generate", "good", "repair", "restore") if folder in needed]

    @property
    def trains_reward(self) -> bool:
        """Whether a run trains a reward model of its own: rewards are asked for, and no released model gives them."""
        on_rollouts = self.align.rollouts is not None
        by_training = on_rollouts or bool(self.scored_folders) or "repair" in self.paired_folders
        by_evaluation = self.evaluate.searches or "reward" in self.evaluate.instruments
        return (by_training or by_evaluation) and self.score.uses_run_network

    @property
    def has_rewarder(self) -> bool:
        """Whether something gives rewards in this run: a released or served model, or the network that it trains."""
        return self.trains_reward or not self.score.uses_run_network

    @property
    def margin_grid(self) -> PatchGrid:
        """The patches that pairs hold margins of."""
        return self.pair.grid or self.grid

    @model_validator(mode="after")
    def _sections_that_others_need(self) -> RunConfig:
        if self.pair.remade and self.restore is None:
            raise ValueError(f"pair.sources has {self.pair.remade}: the recipe needs a section `restore` for it")
        if "preferences" in self.pair.sources and self.pair.preferences is None:
            raise ValueError("pair.sources has 'preferences': name the table of them as pair.preferences")
        if "good" in self.pair.sources and self.good is None:
            raise ValueError("pair.sources has 'good': the recipe needs a section `good` for it")
        repaired = {"repaired", "before_repair"} & set(self.pair.sources)
        if repaired and self.repair is None:
            raise ValueError(f"pair.sources has {sorted(repaired)}: the recipe needs a section `repair` for it")
        if self.restore is not None and self.restore.source == "good" and self.good is None:
            raise ValueError("restore.source is 'good': the recipe needs a section `good` for it")
        if self.restore is not None and self.restore.source == "repaired" and self.repair is None:
            raise ValueError("restore.source is 'repaired': the recipe needs a section `repair` for it")
        return self

    @model_validator(mode="after")
    def _coarser_margins(self) -> RunConfig:
        if any(margin > judged for margin, judged in zip(self.margin_grid.shape, self.grid.shape, strict=True)):
            raise ValueError(f"pair.grid {self.margin_grid.shape} must not be finer than grid {self.grid.shape}")
        return self

    @model_validator(mode="after")
    def _coarser_regions(self) -> RunConfig:
        for name, options in (("repair", self.repair), ("evaluate.repair", self.evaluate.repair)):
            regions = options.regions.shape if options else (1, 1, 1)
            if any(parts > judged for parts, judged in zip(regions, self.grid.shape, strict=True)):
                raise ValueError(f"{name}.regions {regions} must not be finer than grid {self.grid.shape}")
        return self

    @model_validator(mode="after")
    def _clips_can_move(self) -> RunConfig:
        if self.pair.min_motion and self.generator.num_frames < 2:
            raise ValueError("pair.min_motion compares how much clips move: leave it out for clips of a single frame")
        return self

    @model_validator(mode="after")
    def _step_is_kept(self) -> RunConfig:
        step = self.evaluate.step
        if step is not None and self.evaluate.generator == "aligned" and step not in self.align.snapshots:
            raise ValueError(f"evaluate.step is {step}, of which align keeps no weights: add it to align.snapshots")
        return self

    @model_validator(mode="after")
    def _reward_model_sees_tokens(self) -> RunConfig:
        if not self.trains_reward or self.reward.backbone == "denoiser":
            return self
        _, height, width = self.reward_size
        tokens = 1 if self.reward.model else self.reward.patch_size
        if min(height, width) < tokens:
            raise ValueError(
                f"reward.downscale is {self.reward.downscale}: the reward model would see clips of {height} x {width} "
                f"pixels, less than a token of reward.patch_size {tokens}; lower one of them"
            )
        return self

    @model_validator(mode="after")
    def _denoiser_rates_no_crops(self) -> RunConfig:
        if self.reward.backbone == "denoiser" and self.score.scoring == "crop":
            raise ValueError(
                "score.scoring is 'crop', and reward.backbone 'denoiser' rates latents, of which no patch can be cut "
                "out and enlarged: leave scoring at 'dense'"
            )
        return self

    @model_validator(mode="after")
    def _rejected_by_a_denoiser(self) -> RunConfig:
        if self.evaluate.reject is not None and self.trains_reward and self.reward.backbone != "denoiser":
            raise ValueError(
                f"evaluate.reject rates noisy clips, which reward.backbone {self.reward.backbone!r} can't: "
                f"use backbone 'denoiser'"
            )
        return self

    @model_validator(mode="after")
    def _measurable_by_the_judge(self) -> RunConfig:
        if "judge" in self.evaluate.instruments and self.judge.judge == "table":
            raise ValueError(
                "evaluate.instruments names 'judge', but judge.judge is 'table': its labels are of the candidates and "
                "tell nothing of other clips; name 'reward' instead"
            )
        return self

    @model_validator(mode="after")
    def _judged_aspects(self) -> RunConfig:
        vlm, reward = self.judge.vlm, self.reward
        missing = (set(reward.aspects) - set(vlm.aspects)) | (set(reward.patch_aspects) - set(vlm.patch_aspects))
        if self.judge.judge == "openai" and missing:
            raise ValueError(f"the reward model learns {sorted(missing)}, which judge.vlm is not asked for: add them")
        return self

    def part(self, *sections: str) -> dict[str, Any]:
        """What results depend on in the named sections, as JSON values."""
        settings = result_settings(self)
        return {name: settings[name] for name in sections}
