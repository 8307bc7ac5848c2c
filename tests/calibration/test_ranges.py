"""Ranges for int8: histograms that no order changes, thresholds, the choice, and the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dynexport.calibration import (
    METHODS,
    Histogram,
    Observation,
    RangeCache,
    choose_threshold,
    quantise,
    threshold,
)
from dynexport.calibration.histogram import BINS
from dynexport.calibration.threshold import expected_error
from dynexport.errors import CalibrationError

TINY_STEP = float(np.finfo(np.float32).tiny)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
tensors = hnp.arrays(np.float32, st.integers(0, 60), elements=finite)


def histogram_of(*parts: NDArray[Any]) -> Histogram:
    histogram = Histogram("x")
    for part in parts:
        histogram.add(part)
    return histogram


def same(first: Histogram, second: Histogram) -> bool:
    facts = [(h.exponent, h.maximum, h.total) for h in (first, second)]
    return facts[0] == facts[1] and np.array_equal(first.counts, second.counts)


def heavy(count: int = 50_000, seed: int = 0) -> NDArray[np.float32]:
    """Many small values and a few that are large."""
    return np.random.default_rng(seed).standard_t(3, count).astype(np.float32)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---------------------------------------------------------------- histograms


@settings(deadline=None, max_examples=40)
@given(st.lists(tensors, max_size=5), st.randoms(use_true_random=False))
def test_neither_order_nor_batches_nor_merging_change_a_histogram(
    parts: list[NDArray[np.float32]], random: Any
) -> None:
    whole = histogram_of(*parts)
    shuffled = random.sample(parts, len(parts))
    assert same(histogram_of(*shuffled), whole)
    assert same(histogram_of(np.concatenate([*shuffled, np.zeros(0, np.float32)])), whole)
    merged = Histogram("x")
    for part in shuffled:
        merged.merge(histogram_of(part))
    assert same(merged, whole)


@settings(deadline=None, max_examples=40)
@given(tensors)
def test_every_value_is_counted_in_its_own_bin(values: NDArray[np.float32]) -> None:
    histogram = histogram_of(values)
    magnitudes = np.abs(values.astype(np.float64))
    assert histogram.total == len(values)
    assert histogram.maximum == magnitudes.max(initial=0.0)
    expected, _ = np.histogram(magnitudes, bins=np.arange(BINS + 1) * histogram.width)
    assert np.array_equal(histogram.counts, expected)
    if histogram.maximum:
        assert histogram.width * BINS / 2 <= histogram.maximum < histogram.width * BINS


def test_more_values_than_are_counted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = heavy(10_000)
    whole = histogram_of(values)
    monkeypatch.setattr("dynexport.calibration.histogram.CHUNK", 777)
    assert same(histogram_of(values.reshape(10, 10, 100)), whole)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_no_finite_number_names_the_tensor(wrong: float) -> None:
    observation = Observation("blocks.3/fc1")
    with pytest.raises(CalibrationError, match=r"blocks\.3/fc1 takes values that are no finite"):
        observation.add(np.array([[0.0, wrong]]))
    assert observation.histogram.total == 0
    assert len(observation.rows) == 0


def test_half_precision_and_negative_values_count_by_magnitude() -> None:
    values = np.array([-3.0, 1.5, 0.0, 2.0])
    assert same(histogram_of(values.astype(np.float16)), histogram_of(-values))


# ---------------------------------------------------------------- thresholds


@settings(deadline=None, max_examples=40)
@given(tensors, st.sampled_from(METHODS), st.integers(1, 255), st.floats(0.1, 100.0))
@example(np.zeros(3, np.float32), "entropy", 127, 99.99)
@example(np.full(3, 1e-45, np.float32), "mse", 127, 99.99)
@example(np.full(3, 3e38, np.float32), "mse", 127, 99.99)
@example(np.full(1, np.finfo(np.float32).max), "min-max", 25, 99.99)
@example(np.full(3, 2.0, np.float32), "percentile", 127, 99.99)
@example(np.array([0, 0, 0, 1], np.float32), "entropy", 255, 50.0)
def test_a_threshold_is_above_zero_and_at_most_the_maximum(
    values: NDArray[np.float32], method: str, levels: int, percentile: float
) -> None:
    histogram = histogram_of(values)
    found = threshold(histogram, method, levels=levels, percentile=percentile)
    floor = TINY_STEP * levels if histogram.maximum else 1.0
    assert min(floor, 1.0) <= found <= max(histogram.maximum, floor)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        assert np.isfinite(quantise(values, found, levels)).all()


@settings(deadline=None, max_examples=40)
@given(tensors)
def test_mse_expects_no_more_error_than_clipping_nothing(values: NDArray[np.float32]) -> None:
    histogram = histogram_of(values)
    assume(histogram.maximum > 1e-30)
    limits = np.array([threshold(histogram, name) for name in ("mse", "min-max")])
    chosen, plain = expected_error(histogram, limits)
    assert chosen <= plain


@pytest.mark.parametrize("values", [heavy(), normal(50_000), np.abs(normal(50_000)) ** 3])
def test_the_expected_error_is_that_of_quantising(values: NDArray[np.float32]) -> None:
    histogram = histogram_of(values)
    limits = np.geomspace(histogram.maximum, histogram.maximum / 50, 12)
    found = [np.mean((quantise(values, limit) - values) ** 2.0) for limit in limits]
    np.testing.assert_allclose(expected_error(histogram, limits), found, rtol=0.05)


def test_mse_finds_the_least_error_of_all_thresholds() -> None:
    values = heavy()
    limits = np.linspace(0.02, 1.0, 400) * np.abs(values).max()
    errors = [np.mean((quantise(values, limit) - values) ** 2.0) for limit in limits]
    found = threshold(histogram_of(values), "mse")
    assert np.mean((quantise(values, found) - values) ** 2.0) <= min(errors) * 1.02


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.9, 100.0])
def test_percentile_clips_the_share_that_was_asked_for(percentile: float) -> None:
    values = heavy()
    histogram = histogram_of(values)
    found = threshold(histogram, "percentile", percentile=percentile)
    exact = float(np.percentile(np.abs(values), percentile, method="inverted_cdf"))
    assert abs(found - exact) <= 1.01 * histogram.width
    assert (np.abs(values) <= found).mean() * 100 >= percentile


def naive_entropy(histogram: Histogram, levels: int) -> float:
    """The published pseudocode, bin by bin."""
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    best, limit = np.inf, 0.0
    for end in range(used, levels, -8):
        reference = histogram.counts[:end].astype(float)
        clipped = histogram.counts[end:].sum()
        candidate = np.zeros(end)
        for level in range(levels + 1):
            first, last = level * end // (levels + 1), (level + 1) * end // (levels + 1)
            filled = [place for place in range(first, last) if reference[place] > 0]
            for place in filled:
                candidate[place] = sum(reference[first:last]) / len(filled)
        reference[-1] += clipped
        p, q = reference / reference.sum(), candidate / candidate.sum()
        if (q[p > 0] == 0).any():
            continue
        divergence = float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))
        if divergence < best:
            best, limit = divergence, end * histogram.width
    return min(limit, histogram.maximum)


@pytest.mark.parametrize("levels", [15, 127])
@pytest.mark.parametrize("seed", range(3))
def test_entropy_is_the_published_method(levels: int, seed: int) -> None:
    histogram = histogram_of(heavy(3000, seed))
    assert threshold(histogram, "entropy", levels=levels) == naive_entropy(histogram, levels)


def test_methods_differ_where_a_few_values_are_large() -> None:
    histogram = histogram_of(heavy())
    found = {name: threshold(histogram, name) for name in METHODS}
    assert found["min-max"] == histogram.maximum
    assert len(set(found.values())) == len(METHODS)


def test_wrong_wishes_are_refused() -> None:
    histogram = histogram_of(heavy(10))
    with pytest.raises(CalibrationError, match="'mes': did you mean 'mse'"):
        threshold(histogram, "mes")
    for levels, percentile in ((0, 99.0), (127, 0.0), (127, 100.1), (127, float("nan"))):
        with pytest.raises(CalibrationError, match="expected at least 1 level and a percentile"):
            threshold(histogram, "mse", levels=levels, percentile=percentile)


def test_quantising_is_symmetric_and_rounds_half_to_even() -> None:
    values = np.array([-200.0, -127.0, -2.5, -1.5, 0.4, 0.6, 2.5, 126.4, 300.0])
    expected = [-127.0, -127.0, -2.0, -2.0, 0.0, 1.0, 2.0, 126.0, 127.0]
    assert quantise(values, 127.0).tolist() == expected
    assert quantise(np.array([[0.2, 2.0]]), np.array([[0.3, 3.0]]), 3).tolist() == [
        [pytest.approx(0.2), pytest.approx(2.0)]
    ]


# ---------------------------------------------------------------- the choice


def product_error(rows: NDArray[Any], weights: NDArray[Any], limit: float, levels: int) -> float:
    """By hand, in float64."""
    step = limit / 127
    quantised = np.clip(np.rint(rows / step), -127, 127) * step
    steps = np.abs(weights).max(axis=0) / levels
    exact = rows.astype(float) @ weights
    return float(
        np.linalg.norm(quantised @ (np.rint(weights / steps) * steps) - exact)
        / np.linalg.norm(exact)
    )


@pytest.mark.parametrize("weight_levels", [63, 127])
def test_the_choice_is_the_method_whose_product_comes_nearest(weight_levels: int) -> None:
    histogram = histogram_of(heavy())
    rows, weights = heavy(64 * 24, seed=1).reshape(64, 24), normal(24, 10)
    found = choose_threshold(histogram, rows, weights, weight_levels=weight_levels)
    expected = {
        name: product_error(rows, weights, threshold(histogram, name), weight_levels)
        for name in METHODS
    }
    assert list(found.errors) == list(METHODS)
    assert dict(found.errors) == pytest.approx(expected, rel=1e-3)
    assert found.method == min(expected, key=lambda name: expected[name])
    assert found.threshold == threshold(histogram, found.method)


def test_it_is_the_rows_held_out_that_decide() -> None:
    histogram = histogram_of(heavy())
    weights = normal(8, 4)
    large = np.full((4, 8), histogram.maximum, dtype=np.float32)
    small = normal(4, 8)
    assert choose_threshold(histogram, large, weights).method == "min-max"
    assert choose_threshold(histogram, small, weights).method != "min-max"


def test_only_the_methods_asked_for_are_tried_in_the_usual_order() -> None:
    histogram = histogram_of(heavy())
    rows, weights = heavy(80).reshape(10, 8), normal(8, 4)
    found = choose_threshold(histogram, rows, weights, ["mse", "percentile"])
    assert list(found.errors) == ["percentile", "mse"]
    with pytest.raises(CalibrationError, match="unknown calibration method 'max'"):
        choose_threshold(histogram, rows, weights, ["max"])


def test_of_equals_the_first_is_chosen() -> None:
    rows = np.zeros((3, 4), dtype=np.float32)
    for weights in (normal(4, 2), np.zeros((4, 2), dtype=np.float32)):
        found = choose_threshold(histogram_of(heavy()), rows, weights, ["mse", "percentile"])
        assert set(found.errors.values()) == {0.0}
        assert found.method == "percentile"


def test_an_output_channel_without_weights_is_no_division_by_zero() -> None:
    weights = normal(8, 4)
    weights[:, 2] = 0.0
    with np.errstate(all="raise"):
        found = choose_threshold(histogram_of(heavy()), heavy(80).reshape(10, 8), weights)
    assert all(np.isfinite(error) and error < 1 for error in found.errors.values())


def test_without_rows_nothing_is_chosen() -> None:
    with pytest.raises(CalibrationError, match="x has no held-out rows"):
        choose_threshold(histogram_of(heavy()), np.zeros((0, 8), np.float32), normal(8, 4))


# ---------------------------------------------------------------- observations


def observe(*parts: NDArray[Any], limit: int = 16, seed: int = 0) -> Observation:
    observation = Observation("x", limit=limit, seed=seed)
    for part in parts:
        observation.add(part)
    return observation


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 120), max_size=3), st.integers(0, 40), st.integers(0, 3))
def test_batches_do_not_change_what_is_observed(cuts: list[int], limit: int, seed: int) -> None:
    values = heavy(120 * 5).reshape(120, 5)
    whole = observe(values, limit=limit, seed=seed)
    parts = observe(*np.split(values, sorted(cuts)), limit=limit, seed=seed)
    assert np.array_equal(whole.rows, parts.rows)
    assert np.array_equal(whole.channel_maximum, np.abs(values).max(axis=0))
    assert np.array_equal(parts.channel_maximum, whole.channel_maximum)
    assert same(whole.histogram, parts.histogram)
    assert len(whole.rows) == limit
    places = [np.flatnonzero((values == row).all(axis=1)).item() for row in whole.rows]
    assert places == sorted(set(places))


def test_rows_are_drawn_evenly_from_all_that_came() -> None:
    values = np.arange(1000.0).reshape(10, 20, 5, 1)
    drawn = np.concatenate([observe(*values, seed=seed).rows for seed in range(200)])
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1000))
    assert counts.sum() == 3200
    assert (abs(counts - 320) < 5 * 320**0.5).all()


def test_values_of_any_shape_are_rows_of_their_last_axis() -> None:
    values = normal(2, 3, 4, 5)
    found = observe(values, limit=99)
    assert np.array_equal(found.rows, values.reshape(-1, 5))
    assert np.array_equal(observe(values[0, 0, 0]).rows, values[0, 0, :1])
    assert observe(values[:0]).histogram.total == 0
    with pytest.raises(CalibrationError, match="x has 4 channels on one image and 5 on another"):
        found.add(values[..., :4])


def test_what_is_observed_is_a_copy() -> None:
    values = normal(4, 5)
    found = observe(values)
    kept = values.copy()
    values[:] = 0
    assert np.array_equal(found.rows, kept)


# ---------------------------------------------------------------- the cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RangeCache:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a b"))
    return RangeCache.keyed_by("model", "data", {"rows": 512})


def observations() -> dict[str, Observation]:
    return {
        "blocks.0/fc1:0": observe(heavy(200).reshape(40, 5)),
        "": observe(normal(3, 2)),
        "never seen": observe(),
        "zero": observe(np.zeros((3, 4)), limit=0),
    }


def test_what_was_saved_is_loaded_and_goes_on_as_before(cache: RangeCache) -> None:
    assert cache.load() == {}
    saved = observations()
    cache.save(saved)
    loaded = cache.load()
    assert list(loaded) == list(saved)
    more = normal(30, 5)
    for name, ours in saved.items():
        theirs = loaded[name]
        for observation in (ours, theirs):
            observation.add(more[:, : len(ours.channel_maximum) or 5])
        assert same(ours.histogram, theirs.histogram)
        assert np.array_equal(ours.rows, theirs.rows)
        assert np.array_equal(ours.channel_maximum, theirs.channel_maximum)
        assert theirs.name == ours.histogram.name == "x" or theirs.name == name


def test_model_data_and_settings_are_the_key(cache: RangeCache) -> None:
    settings = {"seed": 0, "rows": 512}
    others = [
        cache,
        RangeCache.keyed_by("other", "data", {"rows": 512}),
        RangeCache.keyed_by("model", "other", {"rows": 512}),
        RangeCache.keyed_by("model", "data", settings),
        RangeCache.keyed_by("model", "data", {"rows": 256}),
    ]
    assert len({other.path for other in others}) == 5
    assert RangeCache.keyed_by("model", "data", dict(reversed(settings.items()))) == others[3]


def test_damage_makes_an_empty_cache_and_the_next_save_mends_it(cache: RangeCache) -> None:
    cache.save(observations())
    whole = cache.path.read_bytes()
    for place in range(0, len(whole), max(len(whole) // 40, 1)):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        for content in (bytes(changed), whole[:place]):
            cache.path.write_bytes(content)
            assert list(cache.load()) in ([], list(observations()))
    cache.save(observations())
    assert cache.path.read_bytes() == whole


@pytest.mark.parametrize(
    "wrong",
    [
        {"facts": np.zeros(3, np.int64)},
        {"counts": np.zeros(3, np.int64)},
        {"rows": np.zeros((3, 5), np.float32)},
        {"channel_maximum": np.zeros(4, np.float32)},
        {"maximum": np.zeros(2)},
    ],
)
def test_a_sound_file_that_holds_something_else_is_an_empty_cache(
    cache: RangeCache, wrong: dict[str, NDArray[Any]]
) -> None:
    arrays = observations()["blocks.0/fc1:0"].arrays()
    cache.path.parent.mkdir(parents=True)
    for parts, found in ((arrays, ["x"]), (arrays | wrong, []), (wrong, [])):
        stored = {f"x:{part}": values for part, values in parts.items()}
        np.savez(cache.path, **stored)  # type: ignore[arg-type]
        assert list(cache.load()) == found


def test_where_nothing_can_be_written_there_is_no_cache(cache: RangeCache) -> None:
    cache.path.parent.parent.mkdir(parents=True)
    cache.path.parent.write_text("a file where the folder should be")
    cache.save(observations())
    assert cache.load() == {}


def test_only_the_newest_files_stay(cache: RangeCache) -> None:
    caches = [RangeCache.keyed_by("model", str(number), {}) for number in range(12)]
    for one in caches:
        one.save({})
    left = {file.name for file in cache.path.parent.glob("*")}
    assert len(left) == 8
    assert caches[-1].path.name in left
