"""Which images are chosen, where fewer are asked for than there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made.pictures import TINY, colours, numbered, save_npz

from dynexport.errors import ImageError
from dynexport.images import open_images


def test_all_are_taken_unless_a_count_is_given(source: Path) -> None:
    assert open_images(source, TINY).count == 10
    assert colours(open_images(source, TINY)) == list(range(10))
    assert colours(open_images(source, TINY, count=4)) == [0, 2, 5, 7]
    assert open_images(source, TINY, count=99).count == 10


@pytest.mark.parametrize("count", [1, 4, 10, 99])
def test_a_seed_draws_at_random_and_the_order_stays(source: Path, count: int) -> None:
    found = [colours(open_images(source, TINY, count=count, seed=seed)) for seed in range(30)]
    assert all(one == sorted(set(one)) and len(one) == min(count, 10) for one in found)
    assert found[7] == colours(open_images(source, TINY, count=count, seed=7))
    if count < 10:
        assert len({number for one in found for number in one}) > 5


def test_too_few_images_are_counted(source: Path) -> None:
    assert open_images(source, TINY, at_least=10).count == 10
    with pytest.raises(ImageError) as error:
        open_images(source, TINY, at_least=16)
    assert str(error.value) == f"{source} holds 10 images, at least 16 are needed"
    with pytest.raises(ImageError, match="8 images were asked for, at least 9 are needed"):
        open_images(source, TINY, count=8, at_least=9)
    with pytest.raises(ImageError, match="0 images were asked for, at least 1 are needed"):
        open_images(source, TINY, count=0)


@pytest.mark.parametrize(
    ("total", "share", "apart"),
    [(10, 0.25, 2), (10, 0.5, 5), (2, 0.01, 1), (2, 0.99, 1), (9, 1 / 3, 3), (10, 0.9, 9)],
)
def test_a_share_is_set_apart_evenly(tmp_path: Path, total: int, share: float, apart: int) -> None:
    images = open_images(save_npz(tmp_path / "x.npz", images=numbered(total)), TINY)
    first, second = images.split(share)
    assert second.count == apart
    assert sorted(colours(first) + colours(second)) == list(range(total))
    gaps = np.diff(colours(second))
    assert not len(gaps) or gaps.max() - gaps.min() <= 1
    assert first.digest != second.digest


def test_what_cannot_be_split_is_refused(source: Path) -> None:
    with pytest.raises(ImageError, match=r"a share of 1\.0 was asked for"):
        open_images(source, TINY).split(1.0)
    with pytest.raises(ImageError, match="gives 1 image, at least 2 are needed"):
        open_images(source, TINY, count=1).split(0.5)
