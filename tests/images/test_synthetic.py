"""Pictures from a seed."""

from __future__ import annotations

import numpy as np
import pytest

from dynexport.images import synthetic_images


def test_synthetic_images_are_the_same_for_the_same_seed_and_size() -> None:
    assert np.array_equal(synthetic_images(3, 28), synthetic_images(3, 28))
    assert np.array_equal(synthetic_images(5, 28)[:3], synthetic_images(3, 28))
    assert not np.array_equal(synthetic_images(3, 28), synthetic_images(3, 28, seed=1))


@pytest.mark.parametrize("img_size", [28, 224])
def test_synthetic_images_differ_clearly_from_each_other(img_size: int) -> None:
    images = synthetic_images(8, img_size)
    assert images.shape == (8, img_size, img_size, 3)
    assert images.dtype == np.uint8
    for first in range(8):
        for second in range(first):
            difference = images[first].astype(int) - images[second].astype(int)
            assert np.abs(difference).mean() > 20


def test_synthetic_images_are_smooth_and_use_the_whole_range() -> None:
    images = synthetic_images(4, 224).astype(int)
    neighbours = np.abs(np.diff(images, axis=1)).mean()
    strangers = np.abs(images - images[:, ::-1]).mean()
    assert neighbours < strangers / 2
    assert images.min() < 30
    assert images.max() > 225
