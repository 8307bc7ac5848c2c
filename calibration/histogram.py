"""How often each magnitude occurs in a tensor, counted as its values come."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import CalibrationError

BINS = 2048
"""As many as TensorRT's calibrator has; 1,024 of them or more lie below the largest value."""

CHUNK = 1 << 18
"""Values counted at a time, which bounds the memory."""


class Histogram:
    """Counts of |x| in ``BINS`` bins of one width, from 0 to the power of two above the largest.

    As the range is a power of two, doubling it joins neighbouring bins exactly: the counts do not
    depend on the order in which values came, nor on how they were cut into batches.

    name      of the tensor, for errors
    counts    int64 (BINS,)
    exponent  the range ends at 2 ** exponent
    maximum   the largest magnitude, 0.0 before there is any
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.exponent = 0
        self.maximum = 0.0

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Of one bin."""
        return math.ldexp(1.0, self.exponent) / BINS

    def add(self, values: NDArray[Any]) -> None:
        """Count values of any shape; CalibrationError if one is NaN or beyond float32."""
        with np.errstate(over="ignore"):
            magnitudes = np.abs(np.asarray(values, dtype=np.float32)).ravel()
        if not magnitudes.size:
            return
        self._widen(float(magnitudes.max()))
        per_bin = 1.0 / self.width
        for start in range(0, magnitudes.size, CHUNK):
            part = np.multiply(magnitudes[start : start + CHUNK], per_bin, dtype=np.float64)
            self.counts += np.bincount(part.astype(np.intp), minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Count what another histogram counted."""
        if not other.total:
            return
        self._widen(other.maximum)
        self.counts += _joined(other.counts, max(self.exponent - other.exponent, 0))

    def _widen(self, largest: float) -> None:
        """Let the range reach beyond this magnitude."""
        if not math.isfinite(largest):
            raise CalibrationError(
                f"{self.name} takes values that are no finite numbers on the calibration images: "
                "check the images and the checkpoint"
            )
        if largest > self.maximum:
            exponent = math.frexp(largest)[1]
            if self.maximum:
                self.counts = _joined(self.counts, exponent - self.exponent)
            self.exponent, self.maximum = exponent, largest


def _joined(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """The same counts where each bin is ``2 ** doublings`` times as wide."""
    joined = np.zeros_like(counts)
    size = 1 << min(doublings, BINS.bit_length() - 1)
    sums = counts.reshape(-1, size).sum(axis=1)
    joined[: len(sums)] = sums
    return joined
