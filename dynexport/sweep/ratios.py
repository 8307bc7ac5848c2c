"""Keep ratios as people write them: ranges to lists, and counts to the shortest ratios for them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from dynexport.errors import ScheduleError

MOST_RATIOS = 1000
"""A range of more is a slip of the pen."""

DIGITS = 17
"""As many decimals tell any two numbers of double precision apart."""


def parse_ratio_list(ratios: str | Sequence[float]) -> tuple[float, ...]:
    """Keep ratios, ascending, each once.

    As ``"0.5:1.0:0.1"`` (least, greatest, step), ``"0.5,0.7"``, both mixed, or numbers.

    Counted in decimals, so that the greatest is among them wherever steps lead there.
    ScheduleError for what is no ratio.
    """
    text = ratios if isinstance(ratios, str) else ",".join(map(str, ratios))
    found: set[Decimal] = set()
    try:
        for part in text.split(","):
            found |= _parse_part(part)
    except (ValueError, InvalidOperation):
        raise ScheduleError(
            f"keep ratios {text!r} are not valid: write a range, 0.5:1.0:0.1, or a list, 0.5,0.7"
        ) from None
    return tuple(float(ratio) for ratio in sorted(found))


def ratios_of(counts: Sequence[int], tokens: int) -> tuple[float, ...]:
    """The ratios with the fewest decimals that keep ``counts`` of a grid of ``tokens``.

    Each count is ``int(tokens * ratio)`` as `KeepSchedule.counts` has it.
    """
    return tuple(_ratio_of(count, tokens) for count in counts)


def _ratio_of(count: int, tokens: int) -> float:
    if not 1 <= count <= tokens:
        raise ScheduleError(f"{count} of {tokens} tokens cannot be kept: keep 1 to {tokens}")
    for digits in range(1, DIGITS + 1):
        ratio: float = -(-count * 10**digits // tokens) / 10**digits
        if ratio <= 1.0 and int(tokens * ratio) == count:
            return ratio
    raise ScheduleError(f"no ratio keeps {count} of {tokens} tokens")


def _parse_part(part: str) -> set[Decimal]:
    """``"0.7"`` or ``"0.5:1.0:0.1"``; ValueError or InvalidOperation if it is neither."""
    numbers = [Decimal(number.strip()) for number in part.split(":")]
    for ratio in numbers[:2]:
        if not (ratio.is_finite() and 0 < ratio <= 1):
            raise ScheduleError(f"keep ratio {ratio} is out of range: it must lie in (0, 1]")
    if len(numbers) == 1:
        return set(numbers)
    first, last, step = numbers
    if not (step > 0 and first <= last and (last - first) / step < MOST_RATIOS):
        raise ScheduleError(
            f"keep ratios {part.strip()!r} make no range: write the least, the greatest and a step "
            f"that makes at most {MOST_RATIOS} of them, as in 0.5:1.0:0.1"
        )
    return {first + place * step for place in range(int((last - first) / step) + 1)}
