"""From times to figures: what each entry reaches of its limits, and who is faster by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ceilings import CEILING_OF, SIDE, Ceiling, find_ceilings
from contestants import OURS, Entry, name_entry
from prepare import PLAIN_FORM
from rounds import Failed, Measured

from dynexport.bench.ratios import Ratio
from dynexport.bench.stopwatch import Candidate


@dataclass(frozen=True)
class Row:
    """One entry's figures; of one that failed only why.

    gmacs, nodes  of its own graph; nodes 0 where there is none
    gflops        two operations a multiply-accumulate, at the middle run
    of_ceiling    share of what the fastest product of 2,048 cubed in its precision reaches
    over_plain    how many times faster than the plain export, dense, float32, on ONNX Runtime
    over_dense    how many times faster than its own dense twin: the speed-up that was realised
    ideal         the quotient of the two graphs' multiply-accumulates; of_ideal: what is realised
    """

    form: str
    runtime: str
    precision: str
    sparse: bool
    gmacs: float
    nodes: int
    failed: str = ""
    times: Measured | None = None
    images_per_second: float | None = None
    gflops: float | None = None
    of_ceiling: Ratio | None = None
    over_plain: Ratio | None = None
    over_dense: Ratio | None = None
    ideal: float | None = None
    of_ideal: Ratio | None = None


@dataclass(frozen=True)
class Versus:
    """How many times faster ours is than a peer in float32, on the runtime ``ours_on``."""

    form: str
    runtime: str
    sparse: bool
    ours_on: str
    ratio: Ratio


@dataclass(frozen=True)
class Result:
    """One model at one batch size."""

    model: str
    batch: int
    ceilings: dict[str, Ceiling]
    rows: tuple[Row, ...]
    versus: tuple[Versus, ...]


def judge(
    model: str,
    batch: int,
    entries: Sequence[Entry],
    products: Mapping[tuple[str, str], Candidate],
    results: Mapping[str, Measured | Failed],
) -> Result:
    """Everything that follows from the times of one model at one batch size."""
    ceilings = find_ceilings({key: results[made.label] for key, made in products.items()})
    measured = {label: got for label, got in results.items() if isinstance(got, Measured)}
    macs = {entry.label: entry.macs for entry in entries}
    rows = []
    for entry in entries:
        got = results.get(entry.label, Failed(entry.reason))
        facts = (entry.form, entry.runtime, entry.precision, entry.sparse)
        size = (entry.macs / 1e9, entry.nodes)
        if isinstance(got, Failed):
            rows.append(Row(*facts, *size, failed=got.reason))
            continue
        limit = ceilings.get(CEILING_OF[entry.precision], ceilings.get("fp32"))
        share = entry.macs * batch / SIDE**3
        plain = measured.get(name_entry(PLAIN_FORM, "onnxruntime", "fp32", sparse=False))
        dense = name_entry(entry.form, entry.runtime, entry.precision, sparse=False)
        gained = entry.sparse and dense in measured
        speedup = Ratio.of(measured[dense], got) if gained else None
        ideal = macs[dense] / entry.macs if gained else None
        rows.append(
            Row(
                *facts,
                *size,
                times=got,
                images_per_second=1000.0 * batch / got.p50,
                gflops=2 * entry.macs * batch / (got.p50 * 1e6),
                of_ceiling=Ratio.of(limit.times, got).scaled(share) if limit else None,
                over_plain=Ratio.of(plain, got) if plain else None,
                over_dense=speedup,
                ideal=ideal,
                of_ideal=speedup.scaled(1.0 / ideal) if speedup and ideal else None,
            )
        )
    return Result(model, batch, ceilings, tuple(rows), tuple(_compare(entries, measured)))


def _compare(entries: Sequence[Entry], measured: Mapping[str, Measured]) -> list[Versus]:
    """Ours against every peer; against what PyTorch compiles, ours is on ONNX Runtime."""
    found = []
    for entry in entries:
        if entry.form == OURS or entry.precision != "fp32" or entry.label not in measured:
            continue
        on = "onnxruntime" if entry.runtime == "pytorch compiled" else entry.runtime
        ours = name_entry(OURS, on, "fp32", entry.sparse)
        if ours in measured:
            ratio = Ratio.of(measured[entry.label], measured[ours])
            found.append(Versus(entry.form, entry.runtime, entry.sparse, on, ratio))
    return found
