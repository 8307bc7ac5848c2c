"""What a model's tensors look like on the calibration images, and a cache of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynexport.calibration.histogram import BINS, Histogram
from dynexport.errors import CalibrationError, InputError
from dynexport.files import cache_folder, written_whole
from dynexport.images.arrays import DAMAGED_NPZ

ROWS = 512
"""Rows kept of a tensor, unless told otherwise."""

FORMAT = 1

CACHED = 8
"""Files the cache holds; older ones are removed."""


class Observation:
    """One tensor (..., C) over the calibration images, in bounded memory.

    histogram        of the magnitudes of all values
    channel_maximum  float32 (C,), the largest magnitude in each place of the last axis
    rows             float32 (R, C), rows drawn at random from all that came, at most ``limit``
    """

    def __init__(self, name: str, *, limit: int = ROWS, seed: int = 0) -> None:
        self.name = name
        self.limit = limit
        self.seed = seed
        self.histogram = Histogram(name)
        self.channel_maximum: NDArray[np.float32] = np.zeros(0, dtype=np.float32)
        self.rows: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)
        self._draws: NDArray[np.float64] = np.zeros(0)
        self._seen = 0

    def add(self, values: NDArray[Any]) -> None:
        """Take in values (..., C). CalibrationError if one is no finite number, or C changed."""
        channels = values.shape[-1]
        with np.errstate(over="ignore"):  # infinity is refused below
            rows = np.asarray(values, dtype=np.float32).reshape(-1, channels)
        if not rows.size:
            return
        if not self._seen:
            self.channel_maximum = np.zeros(channels, dtype=np.float32)
            self.rows = np.zeros((0, channels), dtype=np.float32)
        if channels != len(self.channel_maximum):
            raise CalibrationError(
                f"{self.name} has {channels} channels on one image and {len(self.channel_maximum)} "
                "on another: expected the same on all"
            )
        self.histogram.add(rows)
        self.channel_maximum = np.maximum(self.channel_maximum, np.abs(rows).max(axis=0))
        self._draw(rows)

    def _draw(self, rows: NDArray[np.float32]) -> None:
        """Every row draws a number, those with the least stay; which they are depends on the seed
        and the order of the rows, not on how they were cut into batches."""
        generator = np.random.Generator(np.random.PCG64(self.seed).advance(self._seen))
        draws = generator.random(len(rows))
        self._seen += len(rows)
        new = draws < (self._draws.max(initial=0.0) if len(self._draws) == self.limit else 1.0)
        together = np.concatenate([self._draws, draws[new]])
        stay = np.sort(np.argsort(together, kind="stable")[: self.limit])
        self._draws = together[stay]
        self.rows = np.concatenate([self.rows, rows[new]])[stay]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it by name, for a file."""
        facts = [self.limit, self.seed, self._seen, self.histogram.exponent]
        return {
            "facts": np.array(facts, dtype=np.int64),
            "maximum": np.array(self.histogram.maximum),
            "counts": self.histogram.counts,
            "channel_maximum": self.channel_maximum,
            "rows": self.rows,
            "draws": self._draws,
        }

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, NDArray[Any]]) -> Observation:
        """What `arrays` gave; KeyError or ValueError if they are others."""
        limit, seed, seen, exponent = (int(fact) for fact in arrays["facts"])
        found = cls(name, limit=limit, seed=seed)
        found.histogram.exponent, found._seen = exponent, seen
        found.histogram.maximum = float(arrays["maximum"])
        found.histogram.counts = arrays["counts"]
        found.channel_maximum, found.rows = arrays["channel_maximum"], arrays["rows"]
        found._draws = arrays["draws"]
        whole = found.rows.shape == (len(found._draws), len(found.channel_maximum))
        if not whole or found.histogram.counts.shape != (BINS,):
            raise ValueError(name)
        return found


@dataclass(frozen=True)
class RangeCache:
    """Observations in a file of the user's cache folder.

    A file that is damaged counts as none; where none can be written there is no cache, and no
    error.
    """

    path: Path

    @classmethod
    def keyed_by(
        cls, onnx_sha256: str, data_digest: str, settings: Mapping[str, object]
    ) -> RangeCache:
        """The file for one model, one choice of images and what else changes the observations.

        The choice is `ImageSet.digest`, the rest JSON values.
        """
        key = [FORMAT, BINS, onnx_sha256, data_digest, dict(settings)]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return cls(cache_folder() / f"{digest[:32]}.ranges.npz")

    def load(self) -> dict[str, Observation]:
        """What was saved, by tensor; nothing where there is no sound file."""
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                arrays: dict[str, dict[str, NDArray[Any]]] = {}
                for key in stored.files:
                    name, _, part = key.rpartition(":")
                    arrays.setdefault(name, {})[part] = stored[key]
                return {
                    name: Observation.from_arrays(name, parts) for name, parts in arrays.items()
                }
        except DAMAGED_NPZ:
            return {}

    def save(self, observations: Mapping[str, Observation]) -> None:
        """Keep them, by tensor, as far as the folder lets itself be written."""
        stored = {
            f"{name}:{part}": values
            for name, observation in observations.items()
            for part, values in observation.arrays().items()
        }
        with suppress(InputError, OSError):
            with written_whole(self.path) as (draft,), draft.open("wb") as stream:
                np.savez(stream, **stored)  # type: ignore[arg-type]
            self._remove_old()

    def _remove_old(self) -> None:
        files = sorted(self.path.parent.glob("*.ranges.npz"), key=lambda file: file.stat().st_mtime)
        for file in files[:-CACHED]:
            file.unlink(missing_ok=True)
