"""The configuration of models behind OpenAI-compatible endpoints: where they are, and how they are called."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from halovid.config.sections import Execution, Section

# words in upper case, each too short to be a key itself (keys of AWS are 20 capitals and digits)
_VARIABLE = re.compile(r"_?[A-Z][A-Z0-9]{0,15}(_[A-Z0-9]{1,15}){0,7}")


def _check_key_variable(name: str) -> str:
    """The name; ValueError, without repeating it, if it may be a key instead."""
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            "key_variable must be the name of an environment variable, words in upper case joined by _ as in "
            "OPENAI_API_KEY, never the key itself"
        )
    return name


def _check_base_url(url: str) -> str:
    """The address without a slash at its end; ValueError, without repeating it, if it is no URL or may hold a key."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # not shown: its message repeats the text, which may be a key
        is_address = False
    if not is_address:
        raise ValueError("base_url must look like https://host/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url must hold no user, password, query or fragment: keys come from the environment")
    return url.rstrip("/")


BaseUrl = Annotated[str, Field(max_length=2000), AfterValidator(_check_base_url)]
KeyVariable = Annotated[str, AfterValidator(_check_key_variable)]


class ModelConfig(Section):
    """A vision-language model behind an OpenAI-compatible endpoint. Its key comes from the environment only."""

    model: str = Field("gpt-4o", min_length=1, max_length=500, description="the name by which the endpoint knows it")
    base_url: BaseUrl = Field(
        "https://api.openai.com/v1", description="address of the endpoint: OpenAI, Azure (.../openai/v1), vLLM, ..."
    )
    key_variable: Execution[KeyVariable | None] = Field(
        "OPENAI_API_KEY", description="environment variable of the key; null: no key"
    )
    votes: int = Field(1, ge=1, le=1000, description="independent answers to each question")
    input_price: Execution[float | None] = Field(None, ge=0, le=1e9, description="money per million input tokens")
    output_price: Execution[float | None] = Field(None, ge=0, le=1e9, description="money per million output tokens")
    image_patch: Execution[int | None] = Field(
        None,
        ge=1,
        le=4096,
        description="pixels per side of an image token (Qwen2.5-VL: 28); null: OpenAI's 512-pixel tiles",
    )


class BudgetConfig(Section):
    """What one run of a stage may use at most; answers on disk cost nothing."""

    calls: int | None = Field(None, ge=0, le=10**12, description="calls; no limit when left out")
    tokens: int | None = Field(None, ge=0, le=10**15, description="input and output tokens; no limit when left out")
    money: float | None = Field(
        None, ge=0, le=1e12, description="in the currency of the prices; no limit when left out"
    )


class CallConfig(Section):
    """How models are called, and where their answers are kept; none of these settings changes what they are asked."""

    attempts: Execution[int] = Field(4, ge=1, le=1000, description="calls for one answer, when it is missing or wrong")
    first_wait: Execution[float] = Field(
        1.0, ge=0, le=86_400, description="seconds before the second attempt, at most; doubles with each further one"
    )
    longest_wait: Execution[float] = Field(
        60.0,
        ge=0,
        le=86_400,
        description="most seconds between attempts; a server that asks for a longer wait is not asked again",
    )
    timeout: Execution[float] = Field(120.0, gt=0, le=86_400, description="seconds for a call")
    requests_per_minute: Execution[float | None] = Field(
        None, gt=0, le=1e12, description="most calls of each model per minute; no limit when left out"
    )
    tokens_per_minute: Execution[float | None] = Field(
        None, gt=0, le=1e12, description="most tokens of each model per minute; no limit when left out"
    )
    answers: Execution[Path | None] = Field(
        None, description="folder of all answers ever paid for; in the user's cache if left out"
    )
