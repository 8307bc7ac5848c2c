"""What nothing else beats at once in cost and in quality, and a picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynexport.errors import MissingExtraError
from dynexport.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""One a series, told apart by the colour-blind (M. Okabe, K. Ito, 2008)."""

SHAPES = ("o", "s", "^", "D", "v", "P")
"""And without colours."""

LEAST_SPAN = 1.0
"""Per cent an axis of qualities spans at least: less is chance."""

PANEL = (6.4, 4.6)
"""Width and height of a panel, inches."""


@dataclass(frozen=True)
class Mark:
    """One configuration in the plot.

    The series it is of, what stands beside it, its cost (milliseconds) and its quality (a share).
    """

    series: str
    label: str
    cost: float
    quality: float


@dataclass(frozen=True)
class Panel:
    """Configurations that can be compared, and the dense model beside them, where it is known."""

    title: str
    marks: tuple[Mark, ...]
    dense: Mark | None


def find_front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Places of the points (cost, quality) that no other beats.

    None costs less and is as good, or costs as much and is better.
    """
    return tuple(
        place
        for place, (cost, quality) in enumerate(points)
        if not any((c < cost and q >= quality) or (c <= cost and q > quality) for c, q in points)
    )


def draw_front(panels: Sequence[Panel], cost: str, quality: str, targets: Sequence[Path]) -> None:
    """Draw a panel each, side by side, into every target (.png, .svg ...).

    The same marks give the same bytes. ``cost`` and ``quality`` name the axes. MissingExtraError
    without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plots") from None
    size = (PANEL[0] * len(panels), PANEL[1])
    series = list(dict.fromkeys(mark.series for panel in panels for mark in panel.marks))
    with matplotlib.rc_context({"svg.hashsalt": "dynexport", "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for place, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            _draw_panel(axis, panel, series)
            axis.set_ylim(_span(panels))
            axis.set_xlabel(cost)
            if place == 0:
                axis.set_ylabel(quality)
                axis.legend(loc="lower right", fontsize=8, frameon=False)
        with written_whole(*targets) as drafts:
            for target, draft in zip(targets, drafts, strict=True):
                kind = target.suffix.removeprefix(".")
                dates: dict[str, Any] = {"Date": None} if kind == "svg" else {}
                figure.savefig(draft, format=kind, dpi=150, metadata=dates)


def _span(panels: Sequence[Panel]) -> tuple[float, float]:
    """From which per cent to which all panels show, with room for labels."""
    shown = [100.0 * m.quality for p in panels for m in (*p.marks, p.dense) if m is not None]
    missing = max(0.0, LEAST_SPAN - (max(shown) - min(shown)))
    low, high = min(shown) - missing / 2, max(shown) + missing / 2
    room = 0.14 * (high - low)
    return low - room, high + room


def _draw_panel(axis: Axes, panel: Panel, series: Sequence[str]) -> None:
    """Every mark with its label, the front as steps, the dense model as a star and a line."""
    marks = panel.marks
    front = sorted(
        (marks[place].cost, 100.0 * marks[place].quality)
        for place in find_front([(mark.cost, mark.quality) for mark in marks])
    )
    axis.step(*zip(*front, strict=True), where="post", color="#b0b0b0", linewidth=1.2, zorder=1)
    for number, name in enumerate(series):
        _draw_series(axis, number, name, [mark for mark in marks if mark.series == name])
    if panel.dense is not None:
        _draw_dense(axis, panel.dense)
    axis.set_title(panel.title, fontsize=10)
    axis.margins(x=0.08)
    axis.grid(color="#ececec", zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_series(axis: Axes, number: int, name: str, marks: Sequence[Mark]) -> None:
    """The marks of a series; labels of every other series stand below them."""
    axis.scatter(
        [mark.cost for mark in marks],
        [100.0 * mark.quality for mark in marks],
        s=34,
        color=COLOURS[number % len(COLOURS)],
        marker=SHAPES[number % len(SHAPES)],
        label=name,
        zorder=3,
    )
    above = number % 2 == 0
    for mark in marks:
        axis.annotate(
            mark.label,
            (mark.cost, 100.0 * mark.quality),
            xytext=(0, 6 if above else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=7,
            color="#404040",
        )


def _draw_dense(axis: Axes, dense: Mark) -> None:
    height = 100.0 * dense.quality
    axis.axhline(height, color="#808080", linestyle=":", linewidth=1, zorder=0)
    axis.scatter(
        [dense.cost], [height], s=90, color="#404040", marker="*", label=dense.label, zorder=2
    )
