"""Keep schedules: ratios to counts, exactly as the reference counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynexport.errors import ScheduleError
from dynexport.schedule import (
    KeepSchedule,
    Schedule,
    Selection,
    format_ratios,
    linear_schedule,
    parse_ratios,
    power_schedule,
    schedule_from_base,
)

SCHEDULES = [power_schedule, linear_schedule]


RATIOS = st.floats(min_value=0.0, max_value=1.0, exclude_min=True, allow_subnormal=False)


@pytest.mark.parametrize(
    ("schedule", "base", "counts"),
    [
        (power_schedule, 0.7, (137, 96, 67)),
        (linear_schedule, 0.7, (137, 97, 58)),
        (power_schedule, 1.0, (196, 196, 196)),
    ],
)
def test_counts_of_a_14_by_14_grid_are_the_published_ones(
    schedule: Schedule, base: float, counts: tuple[int, ...]
) -> None:
    assert schedule_from_base(schedule, base, 3).counts(196) == counts


@pytest.mark.parametrize("tokens", [49, 196, 576, 3136])
@pytest.mark.parametrize("base", [0.9, 0.8, 0.7, 0.6, 0.5])
def test_counts_are_truncated_in_binary_floating_point(base: float, tokens: int) -> None:
    power = (int(tokens * base), int(tokens * base**2), int(tokens * base**3))
    linear = (int(tokens * base), int(tokens * (base - 0.2)), int(tokens * (base - 0.4)))
    assert power_schedule(base).counts(tokens) == power
    assert linear_schedule(base).counts(tokens) == linear


def test_a_ratio_that_is_a_hair_under_a_half_loses_a_token() -> None:
    assert linear_schedule(0.7).ratios[1] < 0.5
    assert KeepSchedule((0.5,)).counts(196) == (98,)
    assert linear_schedule(0.7).counts(196)[1] == 97


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_a_schedule_has_one_ratio_per_stage_and_starts_at_its_base(
    schedule: Schedule, stages: int
) -> None:
    keep = schedule_from_base(schedule, 0.9, stages)
    assert len(keep.ratios) == stages
    assert keep.ratios[0] == 0.9


def test_a_schedule_of_ones_own_is_asked_for_base_and_stages() -> None:
    keep = schedule_from_base(lambda base, stages: KeepSchedule((base,) * stages), 0.6, 4)
    assert keep == KeepSchedule((0.6, 0.6, 0.6, 0.6))


@pytest.mark.parametrize("base", [0.0, -0.5, 1.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_base_ratio_outside_0_to_1_is_refused(schedule: Schedule, base: float) -> None:
    with pytest.raises(ScheduleError, match=r"^keep ratio \S+ is out of range.*\(0, 1\]$"):
        schedule_from_base(schedule, base, 3)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.5, math.nan, math.inf])
def test_a_stage_ratio_outside_0_to_1_is_refused_with_its_stage(ratio: float) -> None:
    expected = rf"keep ratio of stage 2 is {ratio:g}: it must lie in \(0, 1\]"
    with pytest.raises(ScheduleError, match=expected):
        KeepSchedule((0.9, ratio, 0.1))


def test_a_ratio_just_above_1_is_not_shown_as_1() -> None:
    with pytest.raises(ScheduleError) as found:
        KeepSchedule((1.0000001,))
    assert "is 1:" not in str(found.value)


def test_a_linear_schedule_that_falls_below_zero_is_refused_with_all_its_ratios() -> None:
    with pytest.raises(ScheduleError, match=r"stage 3 is -0\.1: .*all stages: 0\.3, 0\.1, -0\.1"):
        schedule_from_base(linear_schedule, 0.3, 3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0.7,0.8,0.9", "increase from 0.7 to 0.8: a dropped token never comes back"),
        ("0.9,0.5,0.6", "increase from 0.5 to 0.6"),
        ("0.9,0,0", "keep ratio of stage 2 is 0"),
        ("0.9,-0.1,-0.2", "keep ratio of stage 2 is -0.1"),
        ("1.5,1,1", "keep ratio of stage 1 is 1.5"),
        ("nan,nan,nan", "keep ratio of stage 1 is nan"),
        ("inf,1,1", "keep ratio of stage 1 is inf"),
        ("", "keep ratios '' are not numbers: write them as 0.9,0.8,0.7"),
        ("a,b,c", "keep ratios 'a,b,c' are not numbers"),
        ("0.9 0.8 0.7", "are not numbers"),
        ("0.9,0.8,", "are not numbers"),
    ],
)
def test_bad_ratios_are_refused_in_one_sentence(text: str, problem: str) -> None:
    with pytest.raises(ScheduleError) as found:
        parse_ratios(text)
    assert problem in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", ["0.9,0.8,0.7", " 0.9 , 0.8 , 0.7 ", "9e-1,.8,0.70"])
def test_ratios_are_read_from_text(text: str) -> None:
    assert parse_ratios(text) == KeepSchedule((0.9, 0.8, 0.7))


def test_no_ratio_at_all_is_refused() -> None:
    with pytest.raises(ScheduleError, match=r"no keep ratio was given: give one per pruning stage"):
        KeepSchedule(())


def test_a_ratio_that_keeps_no_token_of_a_tiny_grid_is_refused_with_the_smallest_that_does() -> (
    None
):
    with pytest.raises(ScheduleError, match=r"0\.1 of stage 3 keeps none of 9 tokens.* 0\.111112$"):
        KeepSchedule((0.9, 0.5, 0.1)).counts(9)
    with pytest.raises(ScheduleError, match="keeps none of 1 tokens"):
        KeepSchedule((0.99,)).counts(1)


def test_the_smallest_ratio_an_error_names_keeps_a_token_of_every_grid() -> None:
    for side in range(1, 29):
        test_the_smallest_ratio_an_error_names_keeps_a_token(side * side)


@pytest.mark.parametrize("tokens", [1, 4, 16, 49])
def test_the_smallest_ratio_an_error_names_keeps_a_token(tokens: int) -> None:
    with pytest.raises(ScheduleError) as found:
        KeepSchedule((1e-6,)).counts(tokens)
    named = float(str(found.value).split()[-1])
    assert KeepSchedule((named,)).counts(tokens) == (1,)


def test_ratios_for_people_have_four_digits() -> None:
    assert format_ratios(power_schedule(0.7).ratios) == "0.7, 0.49, 0.343"


@settings(deadline=None)
@given(st.lists(RATIOS, min_size=1, max_size=6), st.integers(1, 4096))
def test_counts_never_increase_and_lie_between_1_and_all(ratios: list[float], tokens: int) -> None:
    ratios = sorted(ratios, reverse=True)
    assume(int(tokens * ratios[-1]) >= 1)
    counts = KeepSchedule(tuple(ratios)).counts(tokens)
    assert len(counts) == len(ratios)
    assert list(counts) == sorted(counts, reverse=True)
    assert all(1 <= count <= tokens for count in counts)


@settings(deadline=None)
@given(st.lists(RATIOS, min_size=2, max_size=6))
def test_only_ratios_that_never_increase_make_a_schedule(ratios: list[float]) -> None:
    if ratios == sorted(ratios, reverse=True):
        assert KeepSchedule(tuple(ratios)).ratios == tuple(ratios)
    else:
        with pytest.raises(ScheduleError, match="increase from"):
            KeepSchedule(tuple(ratios))


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 6))
def test_a_ratio_of_1_keeps_every_token(tokens: int, stages: int) -> None:
    assert power_schedule(1.0, stages).counts(tokens) == (tokens,) * stages
    assert KeepSchedule((1.0,) * stages).counts(tokens) == (tokens,) * stages


@settings(deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from(SCHEDULES))
def test_any_base_makes_a_schedule_in_range_or_one_clear_error(
    base: float, schedule: Schedule
) -> None:
    try:
        ratios = schedule_from_base(schedule, base, 3).ratios
    except ScheduleError:
        assert not 0.4 < base <= 1.0
    else:
        assert ratios[0] == base
        assert all(0.0 < ratio <= 1.0 for ratio in ratios)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_makes_a_schedule_or_one_clear_error(text: str) -> None:
    try:
        schedule = parse_ratios(text)
    except ScheduleError:
        return
    assert len(schedule.ratios) == text.count(",") + 1


@pytest.mark.parametrize(
    ("selection", "ranked"),
    [
        (Selection(nested=True), (196, 137, 96)),
        (Selection(nested=True, leading=1), (196, 137, 96)),
        (Selection(nested=True, leading=1, appended=1), (196, 138, 97)),
        (Selection(nested=True, appended=2), (196, 139, 98)),
        (Selection(nested=False), (196, 196, 196)),
        (Selection(nested=False, leading=2), (196, 196, 196)),
    ],
    ids=str,
)
def test_a_stage_ranks_what_the_one_before_left_or_the_whole_grid(
    selection: Selection, ranked: tuple[int, ...]
) -> None:
    assert selection.ranked((137, 96, 67), 196) == ranked
    assert selection.ranked((137,), 196) == (196,)


@pytest.mark.parametrize(
    ("appended", "stages", "positions"),
    [(0, 3, 196), (1, 3, 198), (2, 3, 200), (1, 1, 196), (1, 0, 196)],
)
def test_positions_are_the_grid_and_what_earlier_stages_appended(
    appended: int, stages: int, positions: int
) -> None:
    assert Selection(nested=True, leading=1, appended=appended).positions(196, stages) == positions
    assert Selection(nested=False).positions(196, stages) == 196


@pytest.mark.parametrize(
    ("nested", "leading", "appended"), [(True, -1, 0), (True, 0, -1), (False, 0, 1), (False, -1, 0)]
)
def test_a_selection_that_makes_no_sense_is_refused(
    nested: bool, leading: int, appended: int
) -> None:
    with pytest.raises(ScheduleError, match=r"^Selection\(.*\) is not valid: .*only a nested"):
        Selection(nested, leading, appended)


@settings(deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(0, 3), st.integers(0, 3))
def test_no_stage_ranks_more_than_there_are_positions(
    counts: list[int], leading: int, appended: int
) -> None:
    kept = tuple(sorted(counts, reverse=True))
    for selection in (Selection(True, leading, appended), Selection(False, leading)):
        ranked = selection.ranked(kept, 100)
        assert len(ranked) == len(kept)
        assert all(count <= number for count, number in zip(kept, ranked, strict=True))
        assert max(ranked) <= 100 + selection.appended
