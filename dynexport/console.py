"""Results as people read them: tables on a terminal, plain lines in a pipe."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dynexport.keep import format_ratios

if TYPE_CHECKING:
    from dynexport.bench import BenchResult
    from dynexport.metadata import Metadata
    from dynexport.pipeline import Conversion
    from dynexport.verify import Verification


def print_json(result: Any) -> None:
    """A result as JSON, alone on stdout."""
    plain = result if isinstance(result, (dict, list)) else dataclasses.asdict(result)
    print(json.dumps(_finite(plain), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function to tell of each step: a spinner on a terminal, a line each elsewhere.

    Progress goes to stderr, so that stdout is the result alone.
    """
    console = Console(stderr=True, quiet=quiet, emoji=False, highlight=False)
    if not console.is_terminal:
        yield lambda step: console.print(f"... {step}", markup=False, soft_wrap=True)
        return
    with console.status("starting") as status:
        yield lambda step: status.update(escape(step))


def show_warning(warning: str) -> None:
    """A warning, on stderr, whatever else is quiet."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    console.print(f"[bold yellow]warning:[/] {escape(warning)}")


def show_conversion(result: Conversion) -> None:
    """What was converted, what it gained, how it was verified, where it is."""
    console = _stdout()
    facts = result.metadata
    console.print(f"\n[bold]{escape(facts.variant)}[/] {_tokens(facts)}")
    table = _table("", "dense", "this model", "ratio")
    macs = (facts.macs_dense, facts.macs_sparse)
    table.add_row("GMACs an image", *(f"{m / 1e9:.2f}" for m in macs), f"{macs[0] / macs[1]:.2f} x")
    nodes = (facts.nodes_dense, facts.nodes)
    table.add_row("ONNX nodes", *map(str, nodes), f"{nodes[1] / nodes[0]:.2f}")
    console.print(table)
    console.print(
        f"rewrite proved on {result.proof.images} images: error {result.proof.max_abs_error:.1e} "
        f"against the dense masked form, outputs up to {result.proof.scale:.3g}"
    )
    _print_verification(console, result.verification)
    seconds, megabytes = sum(result.seconds.values()), result.size_bytes / 1e6
    console.print(f"wrote {escape(result.onnx)} ({megabytes:.1f} MB) in {seconds:.1f} s")
    console.print(f"      {escape(result.reference)}")
    if facts.keep_counts:
        console.print(f"next: dynexport bench {escape(shlex.quote(result.onnx))}")


def show_verification(result: Verification) -> None:
    """Passed or failed, and by how much."""
    _print_verification(_stdout(), result)


def _print_verification(console: Console, result: Verification) -> None:
    verdict = "[green]verified[/]" if result.passed else "[red]NOT verified[/]"
    sizes = ", ".join(map(str, result.batch_sizes))
    console.print(
        f"{verdict} with {result.backend} on {result.images} of {result.images_run} images, "
        f"batch {sizes}:"
    )
    for name, errors in result.errors.items():
        agreement = errors.top1_agreement
        console.print(
            f"{escape(name)}: error max {errors.max_abs:.1e}, mean {errors.mean_abs:.1e} on values "
            f"up to {errors.scale:.3g}; cosine {errors.cosine:.6f}"
            + ("" if agreement is None else f"; top-1 agrees {agreement:.1%}")
        )
    if result.stages:
        overlaps = ", ".join(f"{stage.overlap:.1%}" for stage in result.stages)
        ties = sum(stage.ties for stage in result.stages)
        console.print(f"kept sets agree {overlaps} ({ties} tokens swapped by ties)")
    for failure in result.failures:
        console.print(f"[red]failed:[/] {escape(failure)}")


def show_bench(result: BenchResult) -> None:
    """Latency of every candidate, and what sparsity gained of what it could."""
    console = _stdout()
    console.print(f"\n[bold]{escape(result.model)}[/], batch {result.batch}, milliseconds")
    table = _table("", "min", "p50", "p90", "p99", "images/s", "runs")
    for timing in result.timings:
        times = (timing.min, timing.p50, timing.p90, timing.p99)
        table.add_row(
            timing.label,
            *(f"{time:.2f}" for time in times),
            f"{timing.images_per_second:.1f}",
            str(timing.runs),
        )
    console.print(table)
    if result.speedup is not None and result.efficiency is not None:
        console.print(
            f"speed-up over the dense twin {result.speedup:.2f} x, ideal by MACs "
            f"{result.ideal:.2f} x: {result.efficiency:.1%} of it"
        )


def show_facts(facts: dict[str, Any]) -> None:
    """What `inspect` found, a line a fact."""
    console = _stdout()
    for name, value in facts.items():
        if isinstance(value, dict):
            console.print(f"[bold]{escape(name)}[/]")
            for key, item in value.items():
                console.print(escape(f"  {key:<20} {_plain(item)}"))
        else:
            console.print(escape(f"{name:<22} {_plain(value)}"))


def show_models(rows: list[dict[str, Any]]) -> None:
    """The published variants, a row each."""
    ratios = list(rows[0]["macs"])
    columns = [f"GMACs {ratio:g}" if ratio != 1.0 else "GMACs dense" for ratio in ratios]
    table = _table("model", "M params", *columns, "top-1 at 0.7", "prune at")
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['parameters'] / 1e6:.1f}",
            *(f"{row['macs'][ratio] / 1e9:.2f}" for ratio in ratios),
            "" if row["published_top1"] is None else f"{row['published_top1']} %",
            ", ".join(map(str, row["prune_at"])),
        )
    _stdout().print(table)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def _tokens(facts: Metadata) -> str:
    if facts.ratios is None:
        return f"dense, {facts.num_tokens} tokens"
    counts = " -> ".join(map(str, (facts.num_tokens, *facts.keep_counts)))
    return f"at {format_ratios(facts.ratios)}: {counts} tokens"


def _stdout() -> Console:
    """Wide enough that nothing is folded where nobody watches."""
    width = max(120, shutil.get_terminal_size().columns)  # a terminal folds, figures stay whole
    return Console(highlight=False, soft_wrap=True, emoji=False, width=width)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    return table
