"""The front: what nothing beats, and how it is drawn."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynexport.errors import MissingExtraError
from dynexport.sweep.pareto import Mark, Panel, draw_front, find_front
from dynexport.sweep.rows import Measured, Row, Sweep, draw_panels, find_best

pytestmark = pytest.mark.slow

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    front = find_front(points)

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    for place, point in enumerate(points):
        beaten = any(beats(points[other], point) for other in front)
        assert (place in front) != beaten
    ordered = sorted(points[place] for place in front)
    assert [quality for _, quality in ordered] == sorted(quality for _, quality in ordered)


def test_a_machine_that_slows_down_does_not_decide_the_front() -> None:
    """The same speed-ups on a machine that halves its speed on the way, and a row that failed."""

    def front_of(*drifts: float) -> tuple[tuple[int, ...], list[list[float]]]:
        rows = []
        for drift, (ratio, precision, speedup, accuracy) in zip(drifts, found, strict=True):
            twin = drift * (20.0 if precision == "fp32" else 12.0)
            measured = Measured(
                (34,), 49, 10, 20, 999, twin / speedup, twin, speedup, 1.0, accuracy
            )
            rows.append(Row(ratio, precision, 8, "", measured))
        rows.append(Row(0.1, "fp32", 8, "", None, "keeps none"))
        sweep = Sweep(
            *("ckpt.pth", "out", "onnxruntime", None, "digits.npz", True, 0.98),
            *(tuple(rows), (), 0, (), (), 0.0),
        )
        panels = draw_panels(sweep)
        return find_best(rows), [[mark.cost for mark in panel.marks] for panel in panels]

    found = (
        (0.5, "fp32", 2.0, 0.90),  # 10 ms
        (0.7, "fp32", 1.6, 0.95),  # 12.5 ms
        (0.9, "fp32", 1.25, 0.94),  # 16 ms, and worse than 0.7
        (0.7, "int8", 1.5, 0.93),  # 8 ms
    )
    steady = front_of(1.0, 1.0, 1.0, 1.0)
    assert steady == ((1, 3), [[10.0, 12.5, 16.0, 8.0]])
    assert front_of(1.0, 2.0, 1.0, 1.0) == steady  # 0.7 would take 25 ms, and 0.9 beat it


def test_the_plot_is_drawn_alike_each_time(tmp_path: Path) -> None:
    marks = (Mark("fp32", "0.5", 10.0, 0.97), Mark("int8", "0.5", 6.0, 0.96))
    panels = (
        Panel("batch 1", marks, Mark("", "dense, fp32", 20.0, 0.98)),
        Panel("batch 8", marks[:1], None),
    )
    drawn = []
    for number in range(2):
        targets = [tmp_path / f"{number}.{kind}" for kind in ("png", "svg")]
        draw_front(panels, "ms", "accuracy, %", targets)
        drawn.append([target.read_bytes() for target in targets])
    assert drawn[0] == drawn[1]
    with Image.open(tmp_path / "0.png") as picture:
        assert picture.width > 2 * picture.height
    text = drawn[0][1].decode()
    for label in ("batch 1", "batch 8", "dense, fp32", "int8", "accuracy, %"):
        assert f">{label}<" in text


def test_without_matplotlib_one_sentence_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    panel = Panel("", (Mark("fp32", "0.5", 10.0, 0.97),), None)
    with pytest.raises(MissingExtraError, match=r"pip install 'matplotlib>="):
        draw_front([panel], "ms", "accuracy, %", [tmp_path / "a.png"])
    assert os.listdir(tmp_path) == []
