"""Counts that make rows in multiples."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynexport.errors import ScheduleError
from dynexport.schedule import (
    KeepSchedule,
    Selection,
    align_counts,
)

VIT, FUSING, TWO_PATHS = (
    Selection(nested=True, leading=1),
    Selection(nested=True, leading=1, appended=1),
    Selection(nested=False),
)


@pytest.mark.parametrize(
    ("selection", "align", "aligned"),
    [
        (VIT, 1, (137, 96, 67)),
        (VIT, 2, (137, 97, 67)),
        (VIT, 8, (143, 103, 71)),
        (VIT, 64, (191, 127, 127)),
        (VIT, 196, (195, 195, 195)),
        (FUSING, 8, (142, 102, 70)),
        (TWO_PATHS, 8, (144, 96, 72)),
        (TWO_PATHS, 100, (196, 100, 100)),
    ],
)
def test_rows_that_blocks_compute_are_rounded_up(
    selection: Selection, align: int, aligned: tuple[int, ...]
) -> None:
    """The class token's and the fused token's included, so 1 + 143 of a ViT are 18 x 8."""
    assert align_counts((137, 96, 67), 196, selection, align) == aligned


def test_where_the_multiple_is_more_than_there_is_all_are_kept() -> None:
    assert align_counts((196, 190), 196, VIT, 8) == (196, 191)
    assert align_counts((190, 190), 192, TWO_PATHS, 64) == (192, 192)
    assert align_counts((48, 48), 49, VIT, 49) == (48, 48)
    assert align_counts((49,), 49, VIT, 49) == (49,)
    assert align_counts((45, 44), 49, FUSING, 49) == (47, 47)


@pytest.mark.parametrize("align", [0, -8, 2.0, True, "8", None])
def test_a_multiple_that_is_no_whole_number_is_refused(align: Any) -> None:
    with pytest.raises(ScheduleError, match=r"multiple of \S+: give a whole number, at least 1"):
        KeepSchedule((0.7,), align)


def test_a_multiple_above_the_number_of_tokens_is_refused() -> None:
    words = "multiple of 197: the model has 196 tokens, so give 1 to 196$"
    with pytest.raises(ScheduleError, match=words):
        align_counts((137, 96, 67), 196, VIT, 197)
    assert align_counts((137, 96, 67), 196, VIT, 196) == (195, 195, 195)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=5),
    st.integers(1, 400),
    st.integers(1, 64),
    st.sampled_from([VIT, FUSING, TWO_PATHS, Selection(True), Selection(True, 2, 3)]),
)
def test_an_aligned_count_is_the_least_that_fits(
    counts: list[int], tokens: int, align: int, selection: Selection
) -> None:
    counts = sorted((min(count, tokens) for count in counts), reverse=True)
    beside = selection.leading + selection.appended
    assume(align <= tokens)
    before = _left(counts, tokens, selection)
    assume(all(c + selection.appended <= n for c, n in zip(counts, before, strict=True)))
    aligned = align_counts(tuple(counts), tokens, selection, align)
    left = _left(list(aligned), tokens, selection)
    assert list(aligned) == sorted(aligned, reverse=True)
    for count, given_, more in zip(counts, left, aligned, strict=True):
        assert count <= more < count + align
        assert more + selection.appended <= given_
        full = more + selection.appended == given_
        assert full or (beside + more) % align == 0
    assert align_counts(aligned, tokens, selection, align) == aligned
    assert align_counts(tuple(counts), tokens, selection, 1) == tuple(counts)


def _left(counts: list[int], tokens: int, selection: Selection) -> tuple[int, ...]:
    return selection.ranked(tuple(counts), tokens)
