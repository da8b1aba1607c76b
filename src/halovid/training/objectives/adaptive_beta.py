"""A beta that follows the training, so that none has to be searched for."""

from __future__ import annotations

import math

_DECAY = 0.9  # of the moving mean, per step
_MOST = 100.0  # times its start: before the policy has moved, gaps are nearly 0


class AdaptiveBeta:
    """beta = logit(target) / moving mean of |gap|: a preference of the mean size is then met with probability `target`.

    A gap is what beta multiplies to give a preference's logit. As in SimpleTuner's automatic beta.

    Args:
        start: the value until the policy has moved, and always without a target.
        target: a probability in 0.5..1.
    """

    def __init__(self, start: float, target: float | None) -> None:
        self._start, self._target = start, target
        self.mean_gap: float | None = None

    @property
    def value(self) -> float:
        """The beta of the next step."""
        if self._target is None or not self.mean_gap:
            return self._start
        return min(math.log(self._target / (1 - self._target)) / self.mean_gap, _MOST * self._start)

    def observe(self, gap: float) -> None:
        """Takes the mean size of the gaps in a step's whole batch into the moving mean."""
        self.mean_gap = gap if not self.mean_gap else _DECAY * self.mean_gap + (1 - _DECAY) * gap
