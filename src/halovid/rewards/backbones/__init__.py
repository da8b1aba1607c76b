"""Backbones of the reward network, which turn clips and prompts into grids of features. One file per family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halovid.config.reward import RewardConfig
from halovid.maths.grid import LatentGeometry
from halovid.rewards.backbones.base import Backbone, DenoiserSpec, EncoderSpec, Features, LanguageSpec
from halovid.rewards.backbones.conv import ConvEncoder
from halovid.rewards.backbones.denoiser import DenoiserProbe
from halovid.rewards.backbones.idefics2 import Idefics2Backbone
from halovid.rewards.backbones.language import LanguageBackbone
from halovid.rewards.backbones.prompted import PromptedEncoder
from halovid.rewards.backbones.qwen_vl import QwenVLBackbone
from halovid.rewards.backbones.smolvlm import SmolVLMBackbone
from halovid.rewards.backbones.videomae import PretrainedVideoMAE, VideoMAEEncoder
from halovid.rewards.backbones.vjepa2 import VJEPA2Encoder
from halovid.rewards.pretrained import load_config
from halovid.rewards.released import model_config
from halovid.store.errors import InputError

__all__ = [
    "BACKBONES",
    "Backbone",
    "DenoiserSpec",
    "EncoderSpec",
    "Features",
    "LanguageSpec",
    "make_backbone",
    "make_denoiser_spec",
    "make_spec",
]


def _videomae(spec: EncoderSpec) -> Backbone:
    return PromptedEncoder((PretrainedVideoMAE if spec.model else VideoMAEEncoder)(spec), spec)


AnySpec = EncoderSpec | DenoiserSpec | LanguageSpec
LANGUAGE_MODELS: dict[str, type[LanguageBackbone]] = {
    "qwen_vl": QwenVLBackbone,
    "smolvlm": SmolVLMBackbone,
    "idefics2": Idefics2Backbone,
}
BACKBONES: dict[str, Callable[[Any], Backbone]] = {
    "conv": lambda spec: PromptedEncoder(ConvEncoder(spec), spec),
    "videomae": _videomae,
    "vjepa2": lambda spec: PromptedEncoder(VJEPA2Encoder(spec), spec),
    "denoiser": DenoiserProbe,
    **LANGUAGE_MODELS,
}


def make_backbone(spec: AnySpec) -> Backbone:
    """The backbone of a specification, its pretrained weights loaded."""
    return BACKBONES[spec.name](spec)


def make_spec(
    config: RewardConfig,
    size: tuple[int, int, int],
    geometry: LatentGeometry,
    fps: float,
    prompt_width: int,
    dtype: str,
) -> EncoderSpec | LanguageSpec:
    """What the configured backbone is built from.

    Args:
        size: (frames, height, width) of the clips that it sees.
        prompt_width: the width D of the generator's text states, for backbones that read these instead of text.
        dtype: float32 or bfloat16, for language models.

    Raises:
        InputError: the frames are no multiple of `reward.patch_size`, or the pretrained model can't be read.
    """
    _, height, width = size
    if config.model is None and (height % config.patch_size or width % config.patch_size):
        raise InputError(
            f"reward.patch_size is {config.patch_size}; it must divide the height {height} and width {width} at which "
            f"the reward model sees clips (generator.height and width over reward.downscale {config.downscale})"
        )
    pretrained: dict[str, Any] = {} if config.model is None else {"model": config.model}
    if config.method == "lora":
        pretrained["lora"] = config.lora
    clip = _clip_settings(size, geometry)
    if config.backbone in LANGUAGE_MODELS:
        return _language_spec(config, clip, pretrained, fps, dtype)
    hidden = load_config(config.model).hidden_size if config.model else config.width
    encoder = {"width": hidden, "layers": config.layers, "heads": config.heads, "patch_size": config.patch_size}
    return EncoderSpec(name=config.backbone, prompt_width=prompt_width, **encoder, **clip, **pretrained)


def make_denoiser_spec(
    config: RewardConfig, size: tuple[int, int, int], geometry: LatentGeometry, states: int, block: int
) -> DenoiserSpec:
    """What heads on the hidden states of a denoiser's block are built from.

    Args:
        size: (frames, height, width) of the clips.
        states: how many numbers a hidden state has.
        block: which block gives them, counted from 0.
    """
    return DenoiserSpec(
        name="denoiser",
        width=config.width,
        layers=config.layers,
        states=states,
        block=block,
        levels=config.levels,
        **_clip_settings(size, geometry),
    )


def _clip_settings(size: tuple[int, int, int], geometry: LatentGeometry) -> dict[str, Any]:
    """What the specification of every backbone tells of the clips."""
    frames, height, width = size
    return {
        "num_frames": frames,
        "frame_height": height,
        "frame_width": width,
        "temporal_stride": geometry.temporal_stride,
        "causal_first_frame": geometry.causal_first_frame,
    }


def _language_spec(
    config: RewardConfig, clip: dict[str, Any], pretrained: dict[str, Any], fps: float, dtype: str
) -> LanguageSpec:
    """The specification of a language model; a visual token covers `patch_size` x `patch_size` pixels of the clip."""
    model = model_config(pretrained["model"])
    family = LANGUAGE_MODELS[config.backbone]
    if model.model_type not in family.kinds:
        raise InputError(
            f"reward.model {config.model!r} is a {model.model_type!r} model; backbone {config.backbone} takes "
            f"{', '.join(sorted(family.kinds))}"
        )
    if dtype == "float16":
        raise InputError("dtype is float16; language models as reward backbones take float32 or bfloat16")
    repeated_frames = clip["temporal_stride"] - 1 if clip["causal_first_frame"] else 0  # see `BackboneSpec.lead`
    rows, columns = (-(-clip[length] // config.patch_size) for length in ("frame_height", "frame_width"))
    frames, height, width = family.plan(model, config.frames or clip["num_frames"] + repeated_frames, rows, columns)
    return LanguageSpec(
        name=config.backbone,
        width=model.get_text_config().hidden_size,
        frames=frames,
        input_height=height,
        input_width=width,
        fps=fps,
        dtype=dtype,
        **clip,
        **pretrained,
    )
