"""Ranges that were observed are kept, and never taken for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made.values import heavy, normal, observe, same
from numpy.typing import NDArray

from dynexport.calibration import (
    Observation,
    RangeCache,
)


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
