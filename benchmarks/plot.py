"""The results as a picture: a panel a model and batch size, a pair of bars an entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contestants import OURS
from report import Result, Row

COLOURS = {"peer": ("#9a9a9a", "#d4d4d4"), OURS: ("#1f6f8b", "#a5cfdc")}
"""Of the sparse bar and of the dense one."""


def draw(results: Sequence[Result], path: Path) -> None:
    """Write a PNG: milliseconds an image, shorter is better; a line where the ceiling in float32
    would have ours, sparse."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    models = list(dict.fromkeys(result.model for result in results))
    batches = list(dict.fromkeys(result.batch for result in results))
    names = list(dict.fromkeys(_name(row) for result in results for row in result.rows))
    figure, axes = plt.subplots(
        len(models),
        len(batches),
        figsize=(1.5 + 5.5 * len(batches), 1.2 + (0.6 + 0.32 * len(names)) * len(models)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for result in results:
        panel = axes[models.index(result.model)][batches.index(result.batch)]
        _draw_panel(panel, result, names)
    for line in axes:
        line[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0][0].invert_yaxis()  # the first on top, in every panel: they share the axis
    handles = [
        Patch(color=shade, label=f"{who}, {kind}")
        for who, shades in (("peers", COLOURS["peer"]), ("dynexport", COLOURS[OURS]))
        for kind, shade in zip(("sparse", "dense"), shades, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_panel(panel, result: Result, names: Sequence[str]) -> None:  # type: ignore[no-untyped-def]
    """Both bars of every entry, and what each takes; what failed says so."""
    for row in result.rows:
        place = names.index(_name(row)) + (-0.2 if row.sparse else 0.2)
        if row.times is None:
            panel.text(0, place, " failed", va="center", fontsize=6, color="#a04040")
            continue
        time = row.times.p50 / result.batch
        shade = COLOURS[OURS if row.form == OURS else "peer"][not row.sparse]
        panel.barh(place, time, height=0.38, color=shade)
        panel.text(time, place, f" {time:.1f}", va="center", fontsize=6)
    limit = _limit(result)
    if limit is not None:
        panel.axvline(limit, color="#c06000", linestyle=":", linewidth=1)
    panel.set_title(f"{result.model}, batch {result.batch}", fontsize=10)
    panel.set_xlabel("ms an image; dotted: ours, sparse, at the float32 ceiling", fontsize=7)
    panel.tick_params(axis="x", labelsize=7)
    panel.margins(x=0.12)
    panel.spines[["top", "right"]].set_visible(False)


def _limit(result: Result) -> float | None:
    """Milliseconds an image that ours, sparse, would take at the float32 ceiling."""
    ceiling = result.ceilings.get("fp32")
    for row in result.rows:
        if ceiling and (row.form, row.precision, row.sparse) == (OURS, "fp32", True):
            return 2e3 * row.gmacs / ceiling.gflops
    return None


def _name(row: Row) -> str:
    return f"{row.form}, {row.runtime} {row.precision}"
