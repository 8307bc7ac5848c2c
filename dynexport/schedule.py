"""Keep ratios and keep counts: how many tokens each pruning stage keeps, and of which.

The reference code (arXiv 2207.01580) derives three ratios from one base ratio r and turns
each into a count with ``int(N * ratio)`` in binary floating point, N being the size of the
whole patch grid. Both steps are reproduced to the bit: 0.7 - 0.2 is a hair under 0.5, so a
14 x 14 grid keeps 97 tokens there, not 98.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dynexport.errors import ScheduleError


@dataclass(frozen=True)
class KeepSchedule:
    """The share of the patch grid kept after each pruning stage, in (0, 1], never increasing.

    align: the rows that blocks compute are rounded up to a multiple of it; see `align_counts`.
    """

    ratios: tuple[float, ...]
    align: int = 1

    def __post_init__(self) -> None:
        if type(self.align) is not int or self.align < 1:
            raise ScheduleError(
                f"rows cannot be rounded up to a multiple of {self.align!r}: give a whole number, "
                "at least 1, as in `align` 8"
            )
        if not self.ratios:
            raise ScheduleError("no keep ratio was given: give one per pruning stage")
        for stage, ratio in enumerate(self.ratios, start=1):
            if not (math.isfinite(ratio) and 0.0 < ratio <= 1.0):
                raise ScheduleError(
                    f"keep ratio of stage {stage} is {ratio:.10g}: it must lie in (0, 1] "
                    f"(all stages: {format_ratios(self.ratios)})"
                )
        for earlier, later in zip(self.ratios, self.ratios[1:], strict=False):
            if later > earlier:
                raise ScheduleError(
                    f"keep ratios {format_ratios(self.ratios)} increase from {earlier:g} to "
                    f"{later:g}: a dropped token never comes back, so give ratios that fall or stay"
                )

    def counts(self, tokens: int) -> tuple[int, ...]:
        """Tokens kept after each stage out of a grid of ``tokens``: ``int(tokens * ratio)``."""
        counts = tuple(int(tokens * ratio) for ratio in self.ratios)
        for stage, (ratio, count) in enumerate(zip(self.ratios, counts, strict=True), start=1):
            if count < 1:
                least = math.ceil(1e6 / tokens) / 1e6
                raise ScheduleError(
                    f"keep ratio {ratio:g} of stage {stage} keeps none of {tokens} tokens: the "
                    f"smallest ratio of a stage that keeps one is {least:g}"
                )
        return counts


def power_schedule(base: float, stages: int = 3) -> KeepSchedule:
    """Ratios r, r^2, r^3 ...: the schedule of DeiT and LV-ViT (paper, section 4.1)."""
    return KeepSchedule(tuple(base if i == 0 else base ** (i + 1) for i in range(stages)))


def linear_schedule(base: float, stages: int = 3) -> KeepSchedule:
    """Ratios r, r - 0.2, r - 0.4 ...: the schedule of Swin and ConvNeXt."""
    return KeepSchedule(tuple(base if i == 0 else base - 0.2 * i for i in range(stages)))


Schedule = Callable[[float, int], KeepSchedule]
"""Base ratio and number of stages -> the ratio of each stage."""


def schedule_from_base(schedule: Schedule, base: float, stages: int) -> KeepSchedule:
    """A family's schedule for one base ratio in (0, 1]."""
    if not (math.isfinite(base) and 0.0 < base <= 1.0):
        raise ScheduleError(f"keep ratio {base:.10g} is out of range: it must lie in (0, 1]")
    return schedule(base, stages)


@dataclass(frozen=True)
class Selection:
    """What a pruning stage ranks, and so which patch each row of its choice is.

    nested    it ranks the tokens the stage before left; otherwise the whole grid each time
    leading   rows ranked along that are no patches and always kept: the class token
    appended  tokens each stage adds behind those it keeps, such as one fused from the dropped

    Positions 0 to N - 1 are the patches of the grid; appended tokens are N, N + 1 ...
    """

    nested: bool
    leading: int = 0
    appended: int = 0

    def __post_init__(self) -> None:
        if self.leading < 0 or self.appended < 0 or (self.appended and not self.nested):
            raise ScheduleError(
                f"{self} is not valid: numbers are at least 0, and only a nested selection appends"
            )

    def ranked(self, counts: tuple[int, ...], tokens: int) -> tuple[int, ...]:
        """How many tokens each stage ranks, given what each keeps of a grid of ``tokens``."""
        if not self.nested:
            return (tokens,) * len(counts)
        return (tokens, *(count + self.appended for count in counts[:-1]))

    def appended_by(self, stage: int, tokens: int) -> range:
        """Positions of the tokens that a stage, counted from 0, appends."""
        first = tokens + stage * self.appended
        return range(first, first + self.appended)

    def positions(self, tokens: int, stages: int) -> int:
        """How many positions a stage's choice may name, over all stages."""
        return tokens + self.appended * max(0, stages - 1)


def align_counts(
    counts: tuple[int, ...], tokens: int, selection: Selection, align: int
) -> tuple[int, ...]:
    """Keep counts raised so that blocks compute a multiple of ``align`` rows after each stage.

    The latency of a matrix product goes up in steps of its kernel's tile, so a few tokens more may
    cost nothing. What is rounded up is what the blocks after a stage compute: the tokens kept and
    the leading and appended rows beside them, so 1 + K for a model with a class token; with two
    paths the rows of the slow one, K. A count is never lowered, and where the multiple is more than
    the rows a stage is given, it keeps all of them.

    counts: what each stage keeps of a grid of ``tokens``. ScheduleError for a multiple above
    ``tokens``.
    """
    if align > tokens:
        raise ScheduleError(
            f"rows cannot be rounded up to a multiple of {align}: the model has {tokens} tokens, "
            f"so give 1 to {tokens}"
        )
    beside, left, aligned = selection.leading + selection.appended, tokens, []
    for count in counts:
        rows = -(-(beside + count) // align) * align
        count = max(count, min(rows, selection.leading + left) - beside)
        aligned.append(count)
        if selection.nested:
            left = count + selection.appended
    return tuple(aligned)


def parse_ratios(text: str) -> KeepSchedule:
    """``"0.9,0.8,0.7"`` to a schedule."""
    try:
        return KeepSchedule(tuple(float(part) for part in text.split(",")))
    except ValueError:
        raise ScheduleError(
            f"keep ratios {text!r} are not numbers: write them as 0.9,0.8,0.7"
        ) from None


def format_ratios(ratios: tuple[float, ...]) -> str:
    """Ratios for people: ``0.7, 0.49, 0.343``."""
    return ", ".join(f"{ratio:.4g}" for ratio in ratios)
