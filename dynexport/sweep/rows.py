"""What a sweep found: its rows, which of them nothing beats, and the files that show them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dynexport.errors import InputError, MissingExtraError
from dynexport.files import save
from dynexport.sweep.pareto import Mark, Panel, draw_front, find_front

if TYPE_CHECKING:
    from dynexport.sweep.measure import Latency, Made, Quality

ROWS, RESULT, TABLE = "rows.jsonl", "sweep.json", "sweep.csv"
PLOTS = ("pareto.png", "pareto.svg")
FILES = (ROWS, RESULT, TABLE, *PLOTS)
"""Of an output folder."""

SEARCH = "search-{criterion}-{target:g}-{precision}-b{batch}.json"
"""There too: a search's result, so that searches for other things leave it alone."""

SEARCHES = "search*.json"
"""What finds them."""

Key = tuple[float, str, int]
"""A configuration: base ratio, precision, batch size."""


@dataclass(frozen=True)
class Measured:
    """What was found of a configuration.

    keep_counts, num_tokens  tokens kept per stage, of those there are
    macs, macs_dense         multiply-accumulates for one image, of it and of its dense twin
    size_bytes               of the ONNX file
    latency_ms, dense_ms     of a batch, the median, of it and of its dense twin in turn
    speedup                  over the twin, paired round by round
    agreement                share of the images given the class of the dense float32 model
    accuracy                 share given their label; None without labels
    speedup_error            of it; None in rows of release 0.1.0, which did not tell
    unsettled                why the rounds do not support it, see `dynexport.bench.Gain`
    """

    keep_counts: tuple[int, ...]
    num_tokens: int
    macs: int
    macs_dense: int
    size_bytes: int
    latency_ms: float
    dense_ms: float
    speedup: float
    agreement: float
    accuracy: float | None
    speedup_error: float | None = None
    unsettled: str = ""

    @property
    def quality(self) -> float:
        """Accuracy, or agreement where there are no labels."""
        return self.agreement if self.accuracy is None else self.accuracy


def measured_of(made: Made, times: Latency, quality: Quality) -> Measured:
    """All that was found of a file."""
    return Measured(
        keep_counts=made.keep_counts,
        num_tokens=made.num_tokens,
        macs=made.macs,
        macs_dense=made.macs_dense,
        size_bytes=made.size_bytes,
        latency_ms=times.model_ms,
        dense_ms=times.dense_ms,
        speedup=times.gain.speedup,
        agreement=quality.agreement,
        accuracy=quality.accuracy,
        speedup_error=times.gain.speedup_error,
        unsettled=times.gain.unsettled,
    )


@dataclass(frozen=True)
class Row:
    """A configuration, and what was found of it, or why nothing was.

    settings  of its precision, a digest: rows of other settings are not mixed
    model     its ONNX file, where it was kept
    seconds   it took, conversion and judgement with the first of its batch sizes
    """

    ratio: float
    precision: str
    batch: int
    settings: str
    measured: Measured | None
    failure: str = ""
    model: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> Key:
        return self.ratio, self.precision, self.batch

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> Row:
        """From a line of a journal; InputError if it is none."""
        try:
            found = content["measured"]
            measured = None
            if found is not None:
                measured = Measured(**{**found, "keep_counts": tuple(found["keep_counts"])})
            return cls(**{**content, "measured": measured})
        except (TypeError, KeyError):
            raise InputError(
                f"{path} holds a row that is no configuration: remove that line, or choose "
                "another folder with -o"
            ) from None


@dataclass(frozen=True)
class Sweep:
    """Every configuration of a sweep.

    images          what was judged on; labelled: whether they have labels
    dense_accuracy  of the dense float32 model in PyTorch; None without labels
    rows            by precision, batch and ratio
    front           places in ``rows`` of those that no other at its batch size beats in latency
                    (see `steady_latencies`) and accuracy (agreement, without labels)
    resumed         how many rows were on disk before
    files, notes    what was written; what was left out, and why
    """

    checkpoint: str
    folder: str
    backend: str
    threads: int | None
    images: str
    labelled: bool
    dense_accuracy: float | None
    rows: tuple[Row, ...]
    front: tuple[int, ...]
    resumed: int
    files: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no configuration failed."""
        return all(row.measured is not None for row in self.rows)


def steady_latencies(rows: Sequence[Row]) -> dict[Key, float]:
    """Milliseconds a batch by which rows are compared, of each that did not fail.

    The median that the dense twin has over all rows of its precision and batch size, divided by the
    row's own speed-up. Rows are measured minutes apart and the machine's speed drifts; speed-ups
    are measured in turn, and do not.
    """
    dense_ms: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row.measured is not None:
            dense_ms.setdefault((row.precision, row.batch), []).append(row.measured.dense_ms)
    return {
        row.key: median(dense_ms[row.precision, row.batch]) / row.measured.speedup
        for row in rows
        if row.measured is not None
    }


def find_best(rows: Sequence[Row]) -> tuple[int, ...]:
    """Places of the rows that no other at its batch size beats in steady latency and quality."""
    steady = steady_latencies(rows)
    best: list[int] = []
    for batch in {row.batch for row in rows}:
        found = [
            (place, (steady[row.key], row.measured.quality))
            for place, row in enumerate(rows)
            if row.batch == batch and row.measured is not None
        ]
        best += [found[place][0] for place in find_front([point for _, point in found])]
    return tuple(sorted(best))


def write_sweep(result: Sweep) -> Sweep:
    """Write the table and the plot into its folder; returns the sweep with what was written.

    Without matplotlib there is no plot, and a note says so.
    """
    folder = Path(result.folder)
    save(folder / TABLE, _table(result.rows).encode())
    files, notes = [folder / ROWS, folder / TABLE, folder / RESULT], list(result.notes)
    panels = draw_panels(result)
    if panels:
        named = "accuracy" if result.labelled else "agreement with the dense model"
        plots = [folder / name for name in PLOTS]
        cost = f"ms a batch: dense median / speed-up ({result.backend})"
        try:
            draw_front(panels, cost, f"{named}, % of {result.images}", plots)
            files += plots
        except MissingExtraError as error:
            notes.append(f"no plot: {error}")
    told = dataclasses.replace(result, files=tuple(map(str, files)), notes=tuple(notes))
    save(folder / RESULT, (json.dumps(dataclasses.asdict(told), indent=2) + "\n").encode())
    return told


def draw_panels(result: Sweep) -> tuple[Panel, ...]:
    """What the plot shows: a panel a batch size.

    The dense float32 model is in it where its twin was timed and its quality is known.
    """
    panels, steady = [], steady_latencies(result.rows)
    for batch in sorted({row.batch for row in result.rows}):
        found = [(r, r.measured) for r in result.rows if r.batch == batch and r.measured]
        if not found:
            continue
        marks = tuple(
            Mark(row.precision, f"{row.ratio:g}", steady[row.key], measured.quality)
            for row, measured in found
        )
        times = [measured.dense_ms for row, measured in found if row.precision == "fp32"]
        quality = result.dense_accuracy if result.labelled else 1.0
        dense = None
        if times and quality is not None:
            dense = Mark("", "dense, fp32", median(times), quality)
        title = f"{Path(result.checkpoint).name}, batch {batch}"
        panels.append(Panel(title, marks, dense))
    return tuple(panels)


def _table(rows: Sequence[Row]) -> str:
    """Every row as CSV, with a heading."""
    configuration = ("ratio", "precision", "batch")
    names = [field.name for field in dataclasses.fields(Measured)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*configuration, *names, "failure"])
    for row in rows:
        values: list[Any] = [""] * len(names)
        if row.measured is not None:
            values = [getattr(row.measured, name) for name in names]
            values[0] = " ".join(map(str, row.measured.keep_counts))
        writer.writerow([row.ratio, row.precision, row.batch, *values, row.failure])
    return text.getvalue()
