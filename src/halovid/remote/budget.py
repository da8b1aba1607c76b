"""Calls, tokens and money: what is spent, and limits that hold also while several calls are under way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from halovid.config.endpoints import BudgetConfig, ModelConfig

_MILLION = 1_000_000


class BudgetSpent(Exception):
    """The next call could go beyond the budget; the message names the limit."""


@dataclass(frozen=True)
class Cost:
    """Calls, tokens of both directions, and money in the currency of the prices."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.money + other.money,
        )

    @property
    def tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens


def price_call(model: ModelConfig, input_tokens: int, output_tokens: int) -> Cost:
    """What one call costs; without prices its money is 0."""
    money = input_tokens * (model.input_price or 0) + output_tokens * (model.output_price or 0)
    return Cost(1, input_tokens, output_tokens, money / _MILLION)


class Budget:
    """Counts what is spent. A call reserves the most that it may cost, and afterwards settles what it did cost.

    Args:
        section: of the recipe that the limits stand in, for messages.
    """

    def __init__(self, limits: BudgetConfig, section: str) -> None:
        self.spent = Cost()
        self._limits, self._section, self._reserved = limits, section, Cost()
        self._settled = asyncio.Event()

    async def reserve(self, most: Cost) -> None:
        """Sets aside the most that a call may cost; waits for calls under way when it fits only after they settle.

        Raises:
            BudgetSpent: with it more might be spent than the budget allows.
        """
        while self._passed_limit(self.spent + self._reserved + most):
            limit = self._passed_limit(self.spent + most)
            if limit:
                raise BudgetSpent(f"the budget is spent: {self._section}.budget.{limit}")
            self._settled.clear()
            await self._settled.wait()
        self._reserved += most

    def settle(self, most: Cost, actual: Cost) -> None:
        """Turns a reservation into what the call did cost.

        It is not async, so that between an answer's arrival and its writing to disk no other task runs.
        """
        self._reserved += Cost(-most.calls, -most.input_tokens, -most.output_tokens, -most.money)
        if not self._reserved.calls:
            self._reserved = Cost()  # the rounding of sums would leave a rest reserved for ever
        self.spent += actual
        self._settled.set()

    def _passed_limit(self, total: Cost) -> str | None:
        """The first limit that a cost exceeds, with its value; None within all limits."""
        for name, limit in self._limits:
            if limit is not None and getattr(total, name) > limit:
                return f"{name} is {limit}"
        return None
