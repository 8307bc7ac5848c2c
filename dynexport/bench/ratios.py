"""How many times faster, and how far that can be relied on: quotients of times that ran in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MIN_ROUNDS = 5
"""Of five on, the truth is within twice the error nineteen times in twenty, as it should be; of
three seventeen times, of two twelve (drawn at random, with and without slow phases)."""

MAX_ERROR = 0.05
"""The largest standard error, as a share of the quotient, with which it is printed."""

DRAWS = 1000
"""Times that rounds are drawn anew for the error, which is then known to some 2 %."""


class HasRounds(Protocol):
    """What ratios are formed of: the median time of each round, in turn."""

    @property
    def rounds(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Ratio:
    """A quotient of times: the median over the rounds, its standard error, and their number.

    error  of the median, by drawing rounds anew (bootstrap); None where one round is all there is
    """

    median: float
    error: float | None
    rounds: int

    @classmethod
    def of(cls, slow: HasRounds, fast: HasRounds) -> Ratio:
        """How many times faster ``fast`` is, of quotients formed round by round."""
        quotients = paired_ratios(slow, fast)
        count = len(quotients)
        if count < 2:
            return cls(float(np.median(quotients)), None, count)
        draws = np.random.default_rng(0).choice(quotients, (DRAWS, count))
        return cls(float(np.median(quotients)), float(np.median(draws, axis=1).std()), count)

    def scaled(self, factor: float) -> Ratio:
        """The same in another unit, which is known exactly."""
        error = None if self.error is None else self.error * factor
        return Ratio(self.median * factor, error, self.rounds)

    @property
    def unsettled(self) -> str:
        """Why its rounds do not support it, and what to give; empty where they do.

        They do from `MIN_ROUNDS` on, with a standard error of at most `MAX_ERROR` of the quotient.
        """
        count = f"{self.rounds} round{'' if self.rounds == 1 else 's'}"
        if self.rounds < MIN_ROUNDS or self.error is None:
            return f"not settled: {count}, give at least {MIN_ROUNDS} with `rounds`"
        share = self.error / self.median
        if not share <= MAX_ERROR:
            return (
                f"not settled: {count} with a standard error of {share:.1%}, of which "
                f"{MAX_ERROR:.0%} is allowed; give more with `rounds`, longer ones with "
                "`round_seconds`, or a machine that does nothing else"
            )
        return ""

    def beyond(self, limit: float) -> bool | None:
        """Whether it is above a limit, by more than twice its error; None: that is not settled."""
        room = 2 * (self.error or 0.0)
        if self.unsettled or abs(self.median - limit) <= room:
            return None
        return self.median > limit

    def told(self, places: int = 3) -> str:
        """For tables; without its figures where the rounds do not support them."""
        if self.unsettled:
            return "not settled"
        return f"{self.median:.{places}f} ± {self.error:.{places}f}"

    def __str__(self) -> str:
        return self.told()


def paired_ratios(slow: HasRounds, fast: HasRounds) -> NDArray[np.float64]:
    """How many times faster in each round (rounds,): whatever slows a round slows both."""
    return np.divide(slow.rounds, fast.rounds, dtype=np.float64)
