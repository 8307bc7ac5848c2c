"""The syntax of ratios."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynexport.errors import ScheduleError
from dynexport.sweep.ratios import parse_ratio_list

pytestmark = pytest.mark.slow


@given(st.integers(1, 999), st.integers(1, 400), st.integers(0, 200))
def test_ranges_hold_both_ends(first: int, step: int, more: int) -> None:
    """In thousandths: 0.5:1.0:0.1 has six, whatever binary floats make of a tenth."""
    steps = min(more, (1000 - first) // step)
    last = first + steps * step
    text = ":".join(str(Decimal(number) / 1000) for number in (first, last, step))
    assert parse_ratio_list(text) == tuple(
        float(Decimal(first + place * step) / 1000) for place in range(steps + 1)
    )


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8))
def test_lists_come_ascending_and_once(ratios: list[float]) -> None:
    expected = tuple(sorted(set(ratios)))
    assert parse_ratio_list(ratios) == expected
    assert parse_ratio_list(", ".join(map(repr, ratios))) == expected


def test_ranges_and_lists_mix() -> None:
    assert parse_ratio_list("0.5:1.0:0.1") == (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert parse_ratio_list("0.9,0.5:0.75:0.1,0.6") == (0.5, 0.6, 0.7, 0.9)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "keep ratios '' are not valid: write a range, 0.5:1.0:0.1, or a list"),
        ("0.5:1.0", "are not valid"),
        ("high", "'high' are not valid"),
        ("0.5,", "are not valid"),
        ("1.5", "keep ratio 1.5 is out of range"),
        ("0:1:0.1", "keep ratio 0 is out of range"),
        ("nan", "keep ratio NaN is out of range"),
        ("0.5:1.0:0", "'0.5:1.0:0' make no range"),
        ("0.5:1.0:nan", "are not valid"),
        ("1.0:0.5:0.1", "make no range: write the least, the greatest"),
        ("0.1:1.0:1e-9", "make no range"),
    ],
)
def test_what_is_no_ratio_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        parse_ratio_list(text)
    assert problem in str(refused.value)
