"""Answers questions: from the disk if they were answered before, else by asking an endpoint, within a budget.

When a call fails or its answer can't be used, a bounded number of further attempts follows; a wrong answer is sent back
with what is wrong about it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from halovid.config.endpoints import BudgetConfig, CallConfig, ModelConfig
from halovid.remote.answers import AnswerFolder, answer_folder, question_key, readable_messages
from halovid.remote.budget import Budget, BudgetSpent, Cost, price_call
from halovid.remote.endpoint import Endpoint, Reply
from halovid.remote.failures import NotKept, Stopped, Trouble, Unanswered, WrongAnswer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
HOPELESS = 20  # questions in a row that fail at a model before no more are asked: they would cost hours or money
_MAX_QUOTED = 2000  # characters of a wrong answer that are kept and sent back
_MAX_PROBLEM = 500  # characters of what is said to be wrong about it
_MAX_TOKEN = 16  # most characters per token; a longer text is no answer, and would take long to parse
_LOOK_AGAIN = 0.2  # seconds between looks whether another process has finished asking the same question


class Question(Protocol[T_co]):
    """A question that one call answers."""

    def messages(self) -> list[dict[str, Any]]:
        """The conversation that asks it."""

    def form(self) -> dict[str, Any]:
        """Further fields of the request that belong to this question, such as the schema of its answer."""

    def read(self, text: str, /) -> T_co:
        """The value of an answer; ValueError says what is wrong with it."""

    def sent_back(self, answer: str, problem: str) -> Question[T_co]:
        """The question once more, after an answer that could not be used, and what is wrong about it."""

    def text_bytes(self) -> int:
        """UTF-8 bytes of all text."""

    def text_tokens(self) -> int:
        """Estimated tokens of all text."""

    def picture_tokens(self, model: ModelConfig) -> int:
        """Estimated tokens of all pictures, as this model counts them."""

    def answer_tokens(self) -> int:
        """Estimated tokens of the answer."""


@dataclass(frozen=True)
class Asking:
    """How the questions of one section of the recipe are asked.

    section: its name, for messages.  options: what is sent with every question.  concurrency: calls at the same time.
    """

    section: str
    calls: CallConfig
    models: tuple[ModelConfig, ...]
    options: dict[str, Any]
    max_output_tokens: int
    concurrency: int = 1
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def request_body(self, question: Question[Any], model: ModelConfig) -> dict[str, Any]:
        """The request that is sent. With the address and the vote it is the identity of a question."""
        return {"model": model.model, "messages": question.messages()} | question.form() | self.options

    def question_key(self, question: Question[Any], model: ModelConfig, vote: int) -> str:
        """The key of the answer on disk."""
        return question_key(model.base_url, self.request_body(question, model), vote)


class Asker:
    """Asks models. All calls run on one event loop, that of `run`: rate limits and connections outlast a call."""

    def __init__(self, asking: Asking) -> None:
        self.budget = Budget(asking.budget, asking.section)
        self.stopped: Stopped | None = None
        self._asking, self._answers = asking, answer_folder(asking.calls, asking.section)
        self._endpoints = {model: Endpoint(asking.calls, model, asking.section) for model in asking.models}
        self._slots = asyncio.Semaphore(asking.concurrency)
        self._failed_in_row: Counter[ModelConfig] = Counter()
        self._runner: asyncio.Runner | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that asks, run on this asker's event loop."""
        if self._runner is None:
            loop = asyncio.new_event_loop()
            self._runner = asyncio.Runner(loop_factory=lambda: loop)
            weakref.finalize(self, loop.close)
        return self._runner.run(work)

    async def ask(self, question: Question[T], model: ModelConfig, vote: int) -> T:
        """The value of an answer; `vote` tells several answers of a model to the same question apart.

        Raises:
            Unanswered: there is none in this run.
            InputError: the folder of answers can't be written, or the environment's key or proxy can't be used.
        """
        key = self._asking.question_key(question, model, vote)
        async with self._answers.asking[key]:
            known = self._known(question, key)
            if known is not None:
                return known
            self._answers.open()
            try:
                async with (
                    self._slots,
                    self._alone(key),
                ):  # held between attempts too: a server in trouble is asked less
                    known = self._known(question, key)  # another process may have asked it in the meantime
                    return known if known is not None else await self._attempt(question, model, key, vote)
            except Stopped as stop:
                self.stopped = self.stopped or stop
                raise
            except (Trouble, Unanswered) as error:
                self._note_failure(model, error)
                if isinstance(error, Unanswered):
                    raise
                reason, wrong = f"{error} ({self._asking.calls.attempts} attempts)", isinstance(error, WrongAnswer)
                raise Unanswered(reason, error.refused, wrong) from None

    async def close(self) -> None:
        """Closes all connections and releases all questions."""
        for endpoint in self._endpoints.values():
            await endpoint.close()
        self._answers.close()

    def _known(self, question: Question[T], key: str) -> T | None:
        """The value of the answer on disk, or None when there is none; Unanswered: it can't be read."""
        try:
            return known_answer(question, self._answers, key)
        except NotKept as error:  # not asked again: it may be paid for already
            raise Unanswered(str(error)) from None

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """Makes this process the only one that asks a question; waits for another that is asking it."""
        try:
            while not self._answers.take(key):
                self._check_stopped()
                await asyncio.sleep(_LOOK_AGAIN)
        except NotKept as error:
            raise Stopped(str(error)) from None
        try:
            yield
        finally:
            self._answers.release(key)

    async def _attempt(self, question: Question[T], model: ModelConfig, key: str, vote: int) -> T:
        """The value of the first answer of several attempts that can be used."""
        record: dict[str, Any] = {
            "model": model.model,
            "base_url": model.base_url,
            "vote": vote,
            "question": readable_messages(question.messages()),
            "answer": None,
            "rejected": [],
        }
        cost = Cost()
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Trouble),
            stop=stop_after_attempt(self._asking.calls.attempts),
            wait=self._wait,
            reraise=True,
        ):
            with attempt:
                reply, call_cost = await self._call(question, model)
                cost += call_cost
                try:
                    value = self._value(question, reply)
                except ValueError as error:
                    rejected, problem = reply.text[:_MAX_QUOTED], self._endpoints[model].quote(str(error), _MAX_PROBLEM)
                    record["rejected"].append({"text": rejected, "problem": problem})
                    self._keep(key, record | {"cost": asdict(cost)})
                    question = question.sent_back(rejected, problem)
                    raise WrongAnswer(f"no usable answer: {problem}", refused=reply.refused) from None
                self._keep(key, record | {"answer": reply.text, "cost": asdict(cost)})
                self._failed_in_row[model] = 0
                return value
        raise AssertionError("the last attempt returns or raises")

    async def _call(self, question: Question[Any], model: ModelConfig) -> tuple[Reply, Cost]:
        """One call and what it cost."""
        endpoint, pictures = self._endpoints[model], question.picture_tokens(model)
        # the most it can cost: no token is shorter than a byte
        most = price_call(model, question.text_bytes() + pictures, self._asking.max_output_tokens)
        estimate = (question.text_tokens() + pictures, question.answer_tokens())
        self._check_stopped()
        try:
            await self.budget.reserve(most)
        except BudgetSpent as error:
            raise Stopped(str(error)) from None
        cost = Cost()
        try:
            async with (
                endpoint.turn
            ):  # one call at a time waits for the rate limits: after a stop the others do not have to
                self._check_stopped()
                await endpoint.ready(sum(estimate))
                self._check_stopped()
            cost = Cost(calls=1)
            reply = await endpoint.call(self._asking.request_body(question, model))
            cost = price_call(model, *(reply.usage or estimate))
            return reply, cost
        except Trouble as error:
            cost = most if error.paid else cost
            raise
        finally:
            self.budget.settle(most, cost)

    def _value(self, question: Question[T], reply: Reply) -> T:
        """The value of a reply; ValueError says what is wrong with it."""
        if reply.problem is not None:
            raise ValueError(reply.problem)
        if len(reply.text) > self._asking.max_output_tokens * _MAX_TOKEN:
            raise ValueError(f"the answer is longer than {self._asking.section}.max_output_tokens can be")
        return question.read(reply.text)

    def _keep(self, key: str, record: dict[str, Any]) -> None:
        """Saves what came back. If that fails nothing more is asked, but this answer, which is paid for, is used."""
        try:
            self._answers.save(key, record)
        except NotKept as error:
            self.stopped = self.stopped or Stopped(str(error))

    def _check_stopped(self) -> None:
        """Raises what stopped the asking, if anything did."""
        if self.stopped:
            raise Stopped(str(self.stopped), self.stopped.fatal)

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: what the server asks for, else at random up to a bound that doubles."""
        error = state.outcome.exception() if state.outcome else None
        if self.stopped or isinstance(error, WrongAnswer):  # after a stop the next attempt fails at once
            return 0.0
        longest = self._asking.calls.longest_wait
        if isinstance(error, Trouble) and error.wait is not None:
            return min(error.wait, longest)
        return wait_random_exponential(multiplier=self._asking.calls.first_wait, max=longest)(state)

    def _note_failure(self, model: ModelConfig, error: Trouble | Unanswered) -> None:
        """Counts a failure; stops the asking when a model seems to be down, or unable to answer."""
        if error.refused:  # for what this question holds, which says nothing about others
            return
        self._failed_in_row[model] += 1
        if self._failed_in_row[model] >= HOPELESS:
            reason = f"not asked, since {HOPELESS} questions in a row failed at {model.model!r}: {error}"
            self.stopped = self.stopped or Stopped(reason)


def known_answer(question: Question[T], answers: AnswerFolder, key: str) -> T | None:
    """The value of the answer on disk, or None when there is none that can be used.

    Raises:
        NotKept: it can't be read.
    """
    text = answers.load(key)
    try:
        return None if text is None else question.read(text)
    except ValueError:
        return None
