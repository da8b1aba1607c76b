"""Reward models that write their scores, behind an OpenAI-compatible server: VideoScore2 and UnifiedReward.

The frames go with the question as pictures; the answer's scores are read from its text. Calls, attempts and answers on
disk are those of `halovid.remote`.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halovid.config.endpoints import ModelConfig
from halovid.config.reward import ServerConfig
from halovid.remote.failures import Stopped, Unanswered
from halovid.remote.tokens import count_picture_tokens, count_text_tokens
from halovid.rewards.readers.text import fill
from halovid.rewards.released.base import ReleasedReward, UnscoredError
from halovid.rewards.released.qwen_frames import choose_by_rate
from halovid.store.errors import InputError
from halovid.store.files import hash_value
from halovid.store.troubles import raise_shortage

SECTION = "score.server"  # of the recipe, for messages
LOWEST, HIGHEST = 1, 5
_ANSWER_TOKENS = 300  # of an answer of VideoScore2, which thinks first; an estimate
_NUMBER = r"\W{0,4}(\d+(?:\.\d+)?)(?!\s*(?:-|to)\s*\d)"  # of "4", "**4**", "[4]", but not of the scale "1-5"


@dataclass(frozen=True)
class Family:
    """How a served model is asked, and how its answers are read.

    names: of its scores.  patterns: for each score, a regular expression of what precedes its number in an answer.
    question: the words it is asked with, unless the recipe names a file; `{prompt}` once in them.
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    question: str


FAMILIES = {
    "videoscore2": Family(
        ("visual_quality", "text_alignment", "physical_consistency"),
        ("visual quality", "text-to-video alignment", "physical/common-?sense consistency"),
        """Rate this generated video with a whole number from 1 (worst) to 5 (best) in three respects:
(1) visual quality: clarity, smoothness, artefacts
(2) text-to-video alignment: how well it follows the prompt
(3) physical/common-sense consistency: natural behaviour, plausible physics

Its prompt: {prompt}

Think first, then end with
visual quality: N; text-to-video alignment: N, physical/common-sense consistency: N
""",
    ),
    "unifiedreward": Family(
        ("alignment", "physics", "style"),
        (r"alignment score(?: \(1-5\))?", r"(?:physics|coherence) score(?: \(1-5\))?", r"style score(?: \(1-5\))?"),
        """These are frames of a generated video. Rate from 1 to 5 how well it matches its caption, how plausible its
physics are, and how appealing it looks. Answer in this form:
Alignment Score (1-5): X
Physics Score (1-5): Y
Style Score (1-5): Z

Text Caption: [{prompt}]
""",
    ),
}


@dataclass(frozen=True)
class ScoreQuestion:
    """A question about frames, [n, 3, H, W] of bytes, in the words of the family's training.

    These models do not converse: after a wrong answer the same question is asked again.
    """

    family: Family
    text: str
    frames: Tensor

    def messages(self) -> list[dict[str, Any]]:
        """The chat messages of the request: one, with the pictures first and then the text."""
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in self.frames]
        return [{"role": "user", "content": [*pictures, {"type": "text", "text": self.text}]}]

    def form(self) -> dict[str, Any]:
        """No options for a format of the answer: it is plain text."""
        return {}

    def read(self, text: str) -> list[float]:
        """The scores in an answer.

        Raises:
            ValueError: it does not have all of them.
        """
        scores = read_scores(text, self.family)
        if scores is None:
            raise ValueError(f"the answer does not have {len(self.family.names)} scores, it ends: {text[-200:]!r}")
        return scores

    def sent_back(self, answer: str, problem: str) -> ScoreQuestion:
        """The same question again, see the class."""
        return self

    def text_bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode("utf-8", "surrogatepass"))

    def text_tokens(self) -> int:
        """Estimated tokens of the text."""
        return count_text_tokens(self.text_bytes())

    def picture_tokens(self, model: ModelConfig) -> int:
        """Estimated tokens of the pictures."""
        height, width = self.frames.shape[-2:]
        return len(self.frames) * count_picture_tokens(width, height, model.image_patch)

    def answer_tokens(self) -> int:
        """Estimated tokens of the answer, including the reasoning before the scores."""
        return _ANSWER_TOKENS


class ServedReward(ReleasedReward):
    """A released reward model behind a server. Its answers are kept on disk, so that nothing is asked twice.

    Raises:
        InputError: a package of the extra `vlm` is missing, or the question's file can't be read or lacks `{prompt}`.
    """

    def __init__(self, config: ServerConfig) -> None:
        try:
            from halovid.remote.client import Asker, Asking
        except ImportError as error:
            raise InputError(f"{SECTION} needs the package {error.name!r}: pip install 'halovid[vlm]'") from error
        self._family, self._endpoint = FAMILIES[config.family], config.endpoint
        self._question, self._rate = read_question(config), config.frames_per_second
        # greedy, since VideoScore2's scores vary much at its default temperature
        options = {"max_tokens": config.max_output_tokens, "temperature": 0}
        self._asker = Asker(Asking(SECTION, config, (self._endpoint,), options, config.max_output_tokens))
        self.names = self._family.names
        self.model_name = f"{config.family}({config.model})"
        mark = f"question {hash_value(self._question)[:12]}"
        self.policy = f"{config.frames_per_second:g} frames a second, ends included, as pictures; greedy; {mark}"

    def choose_frames(self, count: int, fps: float) -> list[int]:
        """The frames of `score.server.frames_per_second`; see `ReleasedReward.choose_frames`."""
        return choose_by_rate(count, fps, self._rate)

    def rate(self, frames: Tensor, prompt: str) -> Tensor:
        """The scores in the model's answer, 1 to 5.

        Raises:
            InputError: a setting must be mended before anything is answered: the key, the model, the address.
            UnscoredError: no answer had all scores, or, to be tried `again`, the server gave none.
        """
        question = ScoreQuestion(self._family, fill(self._question, prompt=prompt), frames)
        try:
            return torch.tensor(self._asker.run(self._asker.ask(question, self._endpoint, 0)))
        except Stopped as stop:
            if stop.fatal:
                raise InputError(str(stop)) from None
            raise UnscoredError(str(stop), again=True) from None
        except Unanswered as error:
            raise UnscoredError(str(error), again=not error.final) from None

    def overall(self, scores: Tensor) -> float:
        """The mean, from 1 to 5."""
        return scores.mean().item()


def served_identity(config: ServerConfig) -> dict[str, Any]:
    """What the scores of a server depend on: not how often, how patiently and with which key it is asked.

    Raises:
        InputError: the question's file can't be read or lacks `{prompt}`.
    """
    settings = config.model_dump(mode="json", include={"family", "model", "base_url", "frames_per_second"})
    return settings | {"max_output_tokens": config.max_output_tokens, "question": hash_value(read_question(config))}


def read_scores(answer: str, family: Family) -> list[float] | None:
    """The scores in an answer, by the last place that names each; None when one is missing or off the scale."""
    scores = []
    for pattern in family.patterns:
        numbers = re.findall(rf"{pattern}\s*:{_NUMBER}", answer, re.IGNORECASE)
        if not numbers or not LOWEST <= float(numbers[-1]) <= HIGHEST:
            return None
        scores.append(float(numbers[-1]))
    return scores


def read_question(config: ServerConfig) -> str:
    """The words of the question, `{prompt}` once in them: the authors' from its file, or our own.

    Raises:
        InputError: the file can't be read or lacks `{prompt}`.
    """
    if config.question is None:
        return FAMILIES[config.family].question
    try:
        text = config.question.read_text(encoding="utf-8").replace("{text_prompt}", "{prompt}")
    except (OSError, UnicodeDecodeError) as error:
        raise_shortage(error)
        raise InputError(f"score.server.question {config.question} can't be read ({error})") from error
    if text.count("{prompt}") != 1:
        raise InputError(f"score.server.question {config.question} must hold {{prompt}} once")
    return text


def _data_url(frame: Tensor) -> str:
    """A frame [3, H, W] of bytes as a PNG in a URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
