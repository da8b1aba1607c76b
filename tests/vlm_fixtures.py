"""A server that speaks as model endpoints do, a key for it, and ways to ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from halovid.config.vlm import VlmConfig
from halovid.judges.vlm.judge import how_asked
from halovid.judges.vlm.questions import Question
from halovid.judges.vlm.schema import PatchAnswer, PatchForm, strict_schema
from halovid.remote.client import Asker
from halovid.remote.failures import Unanswered
from vlm_server import Server, running_server

KEY = "sk-test-7f3a9b-neverShowThis"
ATTEMPTS = 3
ASPECTS = ("visual_quality", "temporal_consistency")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running_server() as server:
        yield server


def question(text: str = "rate these") -> Question[PatchAnswer]:
    form = PatchForm(ASPECTS, [1, 2, 3])
    return Question("the rules", text, (), strict_schema(form.model), 6, form.read)


class Asked:
    """What came of one or more questions: answers and failures, and the asker."""

    def __init__(self, server: Server, folder: Path, texts: tuple[str, ...] = ("rate these",), **settings: Any) -> None:
        defaults: dict[str, Any] = {"attempts": ATTEMPTS, "first_wait": 0.001, "timeout": 5.0}
        config = VlmConfig(base_url=server.base_url, answers=folder, **(defaults | settings))
        self.asker, self._models = Asker(how_asked(config)), config.models
        self.results = self.asker.run(self._ask(texts))

    async def _ask(self, texts: tuple[str, ...]) -> list[Any]:
        try:
            return await asyncio.gather(
                *(self.asker.ask(question(text), model, 0) for text in texts for model in self._models),
                return_exceptions=True,
            )
        finally:
            await self.asker.close()

    @property
    def answer(self) -> PatchAnswer:
        (result,) = self.results
        assert isinstance(result, dict), result
        return result

    @property
    def failure(self) -> str:
        (result,) = self.results
        assert isinstance(result, Unanswered), result
        return str(result)


def change_first(**values: Any) -> Callable[[dict[str, Any]], Any]:
    def change(good: dict[str, Any]) -> dict[str, Any]:
        good["patches"][0] |= values
        return good

    return change
