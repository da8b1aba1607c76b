"""Asks questions: from the disk when they were answered before, else from an endpoint, within a budget.

A call that fails, and an answer that can't be used, are followed by a bounded number of further attempts; a wrong
answer is sent back with what is wrong about it.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from halovid.config.vlm import ModelConfig, VlmConfig
from halovid.judges.vlm.answers import AnswerFolder, question_key, readable_messages
from halovid.judges.vlm.budget import Budget, BudgetSpent, Cost, price_call
from halovid.judges.vlm.endpoint import Endpoint, Reply, Stopped, Trouble, Unanswered
from halovid.judges.vlm.questions import Question

T = TypeVar("T")
HOPELESS = 20  # questions in a row that failed at the server: it is down, and waiting for the others would take hours
_MAX_QUOTED = 2000  # characters of a wrong answer that are sent back


class WrongAnswer(Trouble):
    """The model answered, but not what was asked for."""


class Asker:
    """Asks models. One event loop for all its life."""

    def __init__(self, config: VlmConfig, answers: AnswerFolder) -> None:
        self.budget = Budget(config.budget)
        self.stopped: Stopped | None = None
        self._config, self._answers = config, answers
        self._endpoints = {model: Endpoint(config, model) for model in config.models}
        self._slots = asyncio.Semaphore(config.concurrency)
        self._failed_in_row = 0

    async def ask(self, question: Question[T], model: ModelConfig, vote: int) -> T:
        """The value of an answer; `vote` tells several answers of a model to the same question apart.

        Raises:
            Unanswered: there is none in this run.
        """
        body = request_body(question, model, self._config)
        key = question_key(model.base_url, body, vote)
        async with self._answers.asking[key]:
            known = known_answer(question, self._answers, key)
            if known is not None:
                return known
            self._answers.make()
            try:
                async with self._slots:  # also while it waits for another attempt: a server in trouble is asked less
                    return await self._attempt(question, self._endpoints[model], body, key, vote)
            except Trouble as error:
                self._note_failure(error)
                raise Unanswered(f"{error} ({self._config.attempts} attempts)") from None
            except Stopped as stop:
                self.stopped = self.stopped or stop
                raise

    async def close(self) -> None:
        """Closes all connections."""
        for endpoint in self._endpoints.values():
            await endpoint.close()

    async def _attempt(self, question: Question[T], endpoint: Endpoint, body: dict[str, Any], key: str, vote: int) -> T:
        """The value of the first answer of several attempts that can be used."""
        record: dict[str, Any] = {
            "model": endpoint.model.model,
            "base_url": endpoint.model.base_url,
            "vote": vote,
            "question": readable_messages(body["messages"]),
            "answer": None,
            "rejected": [],
        }
        messages, cost = body["messages"], Cost()
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Trouble),
            stop=stop_after_attempt(self._config.attempts),
            wait=self._wait,
            reraise=True,
        ):
            with attempt:
                reply, paid = await self._call(question, endpoint, body | {"messages": messages})
                cost += paid
                try:
                    value = _value(question, reply)
                except ValueError as error:
                    record["rejected"].append({"text": reply.text, "problem": str(error)})
                    self._answers.save(key, record | {"cost": asdict(cost)})
                    messages = [*body["messages"], *_feedback(reply.text, str(error))]
                    raise WrongAnswer(f"no usable answer: {error}") from None
                self._answers.save(key, record | {"answer": reply.text, "cost": asdict(cost)})
                return value
        raise AssertionError("the last attempt returns or raises")

    async def _call(self, question: Question[Any], endpoint: Endpoint, body: dict[str, Any]) -> tuple[Reply, Cost]:
        """One call and what it cost."""
        model = endpoint.model
        pictures, longest = question.picture_tokens(model), self._config.max_output_tokens
        most = price_call(model, question.text_bytes() + pictures, longest)  # a token has at least a byte
        await endpoint.ready(question.text_tokens() + pictures + question.answer_tokens())
        if self.stopped:
            raise Stopped(str(self.stopped), self.stopped.fatal)
        try:
            await self.budget.reserve(most)
        except BudgetSpent as error:
            raise Stopped(str(error)) from None
        cost = Cost(calls=1)
        try:
            reply = await endpoint.call(body)
            estimate = (question.text_tokens() + pictures, question.answer_tokens())
            cost = price_call(model, *(reply.usage or estimate))
            self._failed_in_row = 0
            return reply, cost
        except Trouble as error:
            cost = most if error.paid else cost
            raise
        finally:
            await self.budget.settle(most, cost)

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: as the server asks, else twice as long each time, at random."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, WrongAnswer):
            return 0.0
        longest = self._config.longest_wait
        if isinstance(error, Trouble) and error.wait is not None:
            return min(error.wait, longest)
        return wait_random_exponential(multiplier=self._config.first_wait, max=longest)(state)

    def _note_failure(self, error: Trouble) -> None:
        """Stops when the server seems to be down."""
        if isinstance(error, WrongAnswer):
            return
        self._failed_in_row += 1
        if self._failed_in_row >= HOPELESS:
            self.stopped = self.stopped or Stopped(f"not asked, since {HOPELESS} questions in a row failed: {error}")


def request_body(question: Question[Any], model: ModelConfig, config: VlmConfig) -> dict[str, Any]:
    """What is sent: with the endpoint and the vote, the identity of a question."""
    body: dict[str, Any] = {
        "model": model.model,
        "messages": question.messages(),
        "response_format": question.response_format(),
        "max_completion_tokens": config.max_output_tokens,
    }
    return body if config.temperature is None else body | {"temperature": config.temperature}


def known_answer(question: Question[T], answers: AnswerFolder, key: str) -> T | None:
    """The value of the answer on disk, or None when there is none that can be used."""
    text = answers.load(key)
    try:
        return None if text is None else question.read(text)
    except ValueError:
        return None


def _value(question: Question[T], reply: Reply) -> T:
    """The value of a reply; ValueError says what is wrong with it."""
    if reply.problem is not None:
        raise ValueError(reply.problem)
    return question.read(reply.text)


def _feedback(text: str, problem: str) -> list[dict[str, Any]]:
    """The messages that send a wrong answer back."""
    said = [{"role": "assistant", "content": text[:_MAX_QUOTED]}] if text.strip() else []
    asked = f"This answer can't be used: {problem}. Answer the question again, with JSON of the schema alone."
    return [*said, {"role": "user", "content": asked}]
