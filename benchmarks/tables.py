"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ceilings import SIDE
from contestants import OURS
from report import Result, Row, Versus

from dynexport.bench.ratios import Ratio

ABOUT = f"""\
Milliseconds a batch: *min* is the shortest of all runs, *p50* the middle one; images/s, GFLOP/s
(GOP/s in int8; two a multiply-accumulate of the entry's own graph) follow from the middle one.
Ratios are medians over the rounds of quotients of each round's medians, with their standard
error; not settled: the rounds do not support one. *Of ceiling* is the share of what the fastest
product of {SIDE} x {SIDE} x {SIDE} reaches in that precision, in the same
rounds; *over plain* the speed-up over the plain export, dense, in float32 on ONNX Runtime; *over
dense* that of a sparse graph over its own dense twin; *ideal* the quotient of the two graphs' own
multiply-accumulates, and *of ideal* how much of it was realised."""

COLUMNS = (
    "form | runtime | precision | kept | GMACs | nodes | min | p50 | images/s | GFLOP/s "
    "| of ceiling | over plain | over dense | ideal | of ideal"
)


def write_report(results: Sequence[Result]) -> str:
    """The acceptance figures, then a table for each model and batch size."""
    parts = [ABOUT, "## Realised and ideal, and the share of the ceiling", summary(results)]
    if any(result.versus for result in results):
        parts += ["## Against each peer, float32", versus_table(results)]
    for result in results:
        parts += [f"## {result.model}, batch {result.batch}", ceilings_line(result), table(result)]
    return "\n\n".join(parts)


def table(result: Result) -> str:
    """A row an entry; what failed says why."""
    rows = [_line(COLUMNS.split(" | ")), _rule(15)]
    rows += [_line(_cells(row)) for row in result.rows]
    reasons = dict.fromkeys(row.failed for row in result.rows if row.failed)
    for reason in reasons:
        names = [_name(row) for row in result.rows if row.failed == reason]
        rows.append(f"\nFailed ({'; '.join(names)}): {reason}")
    return "\n".join(rows)


def summary(results: Sequence[Result]) -> str:
    """Ours: realised over ideal, and the share of the ceiling, sparse and dense."""
    head = "model | batch | runtime | precision | over dense | ideal | of ideal"
    rows = [_line([*head.split(" | "), "of ceiling, sparse", "of ceiling, dense"]), _rule(9)]
    for result in results:
        dense = {(r.form, r.runtime, r.precision): r for r in result.rows if not r.sparse}
        for row in result.rows:
            if row.form == OURS and row.sparse and row.times:
                twin = dense.get((row.form, row.runtime, row.precision))
                cells = [result.model, str(result.batch), row.runtime, row.precision]
                cells += [_ratio(row.over_dense), _number(row.ideal, 3), _ratio(row.of_ideal)]
                rows.append(_line([*cells, _share(row), _share(twin)]))
    return "\n".join(rows)


def versus_table(results: Sequence[Result]) -> str:
    """How many times faster ours is than each peer, on the peer's runtime."""
    peers = dict.fromkeys(_peer(versus) for result in results for versus in result.versus)
    rows = [_line(["model", "batch", "kept", *peers]), _rule(3 + len(peers))]
    for result in results:
        for sparse in (True, False):
            of = {_peer(v): v.ratio for v in result.versus if v.sparse == sparse}
            cells = [result.model, str(result.batch), "sparse" if sparse else "dense"]
            rows.append(_line([*cells, *(_ratio(of.get(peer)) for peer in peers)]))
    return "\n".join(rows)


def ceilings_line(result: Result) -> str:
    """What the products reached, by precision and runtime."""
    listed = [
        f"{kind} {ceiling.gflops:.0f} ("
        + ", ".join(f"{name} {gflops:.0f}" for name, gflops in ceiling.by_runtime.items())
        + ")"
        for kind, ceiling in result.ceilings.items()
    ]
    return f"Ceilings in these rounds, GFLOP/s: {'; '.join(listed)}."


def _cells(row: Row) -> list[str]:
    times = row.times
    return [
        row.form,
        row.runtime,
        row.precision,
        "sparse" if row.sparse else "dense",
        _number(row.gmacs or None, 2),
        str(row.nodes or ""),
        _number(times.min, 1) if times else "failed",
        _number(times.p50, 1) if times else "",
        _number(row.images_per_second, 1),
        _number(row.gflops, 0),
        _share(row),
        _ratio(row.over_plain),
        _ratio(row.over_dense),
        _number(row.ideal, 3),
        _ratio(row.of_ideal),
    ]


def _name(row: Row) -> str:
    return f"{row.form}, {row.runtime} {row.precision}, {'sparse' if row.sparse else 'dense'}"


def _peer(versus: Versus) -> str:
    on = "" if versus.ours_on == versus.runtime else f", ours on {versus.ours_on}"
    return f"{versus.form}, {versus.runtime}{on}"


def _share(row: Row | None) -> str:
    return "" if row is None else _ratio(row.of_ceiling)


def _ratio(ratio: Ratio | None) -> str:
    return "" if ratio is None else str(ratio)


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
