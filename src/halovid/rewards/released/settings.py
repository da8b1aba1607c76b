"""The settings that releases keep as JSON: what is read of them, and what they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from halovid.rewards.released.base import read_json
from halovid.store.errors import InputError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
M = TypeVar("M", bound=BaseModel)


class EdgeLimits(BaseModel):
    """The shortest and longest edge that frames are resized to."""

    model_config = ConfigDict(extra="forbid")

    shortest_edge: int = Field(default=378, ge=1)
    longest_edge: int = Field(default=980, ge=1)


class PictureSettings(BaseModel):
    """preprocessor_config.json of VideoScore, which was trained without splitting."""

    do_image_splitting: Literal[False] | None = None
    size: EdgeLimits = EdgeLimits()


class ProcessorSettings(BaseModel):
    """processor_config.json, where transformers 5 writes them when a model is saved again."""

    image_processor: PictureSettings = PictureSettings()


class DataSettings(BaseModel):
    """data_config of VideoReward: so many frames a second, or `num_frames` of any clip."""

    sample_type: Literal["uniform"] = "uniform"
    fps: Positive | None = 2.0
    num_frames: int | None = Field(None, ge=1)
    max_frame_pixels: int | None = Field(None, ge=28 * 28)


class ModelSettings(BaseModel):
    """model_config of VideoReward: the base model, and a head that is read at tokens of its own."""

    model_name_or_path: str = Field(min_length=1)
    reward_token: Literal["special"]
    use_special_tokens: Literal[True]
    output_dim: Literal[1, 3]


class LoraSettings(BaseModel):
    """peft_lora_config of VideoReward."""

    lora_r: int = Field(16, ge=1)
    lora_alpha: Finite = 32
    use_rslora: bool = False


class Normalisation(BaseModel):
    """inference_config of VideoReward."""

    VQ_mean: Finite
    MQ_mean: Finite
    TA_mean: Finite
    VQ_std: Positive
    MQ_std: Positive
    TA_std: Positive


class VideoRewardSettings(BaseModel):
    """model_config.json of VideoReward; a null inference_config leaves scores as they are."""

    data: DataSettings = Field(DataSettings(), alias="data_config")
    model: ModelSettings = Field(alias="model_config")
    lora: LoraSettings = Field(LoraSettings(), alias="peft_lora_config")
    inference: Normalisation | None = Field(None, alias="inference_config")


def read_settings(path: Path, kind: type[M]) -> M:
    """The settings of a JSON file.

    Raises:
        InputError: it is missing, or holds settings under which a score would be read otherwise than here; all are
            named.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc']))} is {problem['input']!r}: {problem['msg']}"
            if problem["type"] != "missing"
            else f"{'.'.join(map(str, problem['loc']))} is missing"
            for problem in error.errors()
        ]
        raise InputError(f"{path} is not as released: {'; '.join(problems)}") from error
