"""What `dynexport sweep` prints: rows as they are finished, and what was found at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from dynexport.cli.console import macs_unit, make_table, stdout
from dynexport.cli.options import as_options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dynexport.sweep.rows import Measured, Row, Sweep
    from dynexport.sweep.search import Search


def row_printer(quiet: bool) -> Callable[[Row], None]:
    """Prints each row as it is finished, on stderr: stdout is the result alone."""
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet, highlight=False, emoji=False, soft_wrap=True)

    def show(row: Row) -> None:
        named = _configuration(row)
        if row.measured is None:
            console.print(f"{named}: [red]failed:[/] {escape(as_options(row.failure))}")
            return
        found = row.measured
        accuracy = "" if found.accuracy is None else f", accuracy {found.accuracy:.2%}"
        console.print(
            f"{named}: {found.latency_ms:.2f} ms, speed-up {_speedup(found)}, "
            f"agreement {found.agreement:.2%}{accuracy}"
        )

    return show


def show_sweep(result: Sweep) -> None:
    """A line a configuration, what the figures mean, and what was written."""
    console = stdout()
    named = escape(Path(result.checkpoint).name)
    console.print(f"\n[bold]{named}[/] in {result.backend}, milliseconds a batch")
    console.print(_sweep_table(result))
    for row in result.rows:
        if row.measured is None:
            console.print(
                f"[red]failed:[/] {_configuration(row)}: {escape(as_options(row.failure))}"
            )
    _explain_sweep(console, result)
    if result.resumed:
        console.print(f"{result.resumed} of {len(result.rows)} were on disk")
    for note in result.notes:
        console.print(f"[dim]{escape(note)}[/]")
    console.print(f"wrote {escape(', '.join(result.files))}")


def _explain_sweep(console: Console, result: Sweep) -> None:
    """What the columns and the stars mean."""
    dense = f", whose accuracy is {result.dense_accuracy:.2%}" if result.labelled else ""
    console.print(
        f"agrees: with the dense float32 model on {escape(result.images)}{dense}; speed-up over "
        "the dense twin in the same precision"
    )
    better = "more accurate" if result.labelled else "nearer to the dense model"
    if result.front:
        console.print(
            f"*: no other of its batch size is faster and at least as good, or {better} and "
            "at least as fast; latency as the median of dense ms divided by the speed-up"
        )
    unsettled = [row.measured.unsettled for row in result.rows if row.measured is not None]
    for reason in dict.fromkeys(filter(None, unsettled)):
        console.print(f"speed-ups {escape(as_options(reason))}; what is starred may rest on them")


def _sweep_table(result: Sweep) -> Table:
    """A row a configuration that did not fail; those that nothing beats have a star."""
    labels = ("accuracy",) if result.labelled else ()
    unit, scale = macs_unit(row.measured.macs_dense for row in result.rows if row.measured)
    columns = ("tokens kept", unit, "MB", "ms", "dense ms", "speed-up", "ideal", "agrees", *labels)
    table = make_table("ratio", "precision", "batch", *columns, "")
    for place, row in enumerate(result.rows):
        found = row.measured
        if found is None:
            continue
        accuracy = () if found.accuracy is None else (f"{found.accuracy:.2%}",)
        table.add_row(
            f"{row.ratio:g}",
            row.precision,
            str(row.batch),
            _tokens(found),
            f"{found.macs / scale:.2f}",
            f"{found.size_bytes / 1e6:.2f}",
            f"{found.latency_ms:.2f}",
            f"{found.dense_ms:.2f}",
            _speedup(found),
            f"{found.macs_dense / found.macs:.2f} x",
            f"{found.agreement:.2%}",
            *accuracy,
            "*" if place in result.front else "",
        )
    return table


def show_search(result: Search) -> None:
    """The schedule that was found, what its file does, and the command that makes it."""
    console = stdout()
    found = result.measured
    console.print(
        f"\n[bold]{escape(Path(result.checkpoint).name)}[/] in {result.precision}, batch "
        f"{result.batch}: {found.num_tokens} -> {_tokens(found)} tokens"
    )
    console.print(_search_table(result))
    console.print(_told_target(result))
    if result.criterion == "latency" and found.dense_ms <= result.target:
        console.print(f"the dense twin takes {found.dense_ms:.2f} ms: it meets the target too")
    console.print(
        f"on {escape(result.images)}; {len(result.trials)} of {len(result.way)} schedules were "
        f"converted; wrote {escape(result.file)}"
    )
    console.print(f"next: {escape(result.command)}")


def _search_table(result: Search) -> Table:
    """The dense model beside the schedule."""
    found = result.measured
    unit, scale = macs_unit([found.macs_dense])
    table = make_table("", "dense", "this schedule")
    table.add_row(unit, *(f"{count / scale:.2f}" for count in (found.macs_dense, found.macs)))
    table.add_row(
        f"ms a batch in {result.backend}",
        *(f"{time:.2f}" for time in (found.dense_ms, found.latency_ms)),
    )
    if found.accuracy is not None and result.dense_accuracy is not None:
        table.add_row("accuracy", f"{result.dense_accuracy:.2%}", f"{found.accuracy:.2%}")
    table.add_row("class of the dense model", "", f"{found.agreement:.2%}")
    return table


def _told_target(result: Search) -> str:
    if result.criterion == "latency":
        return f"[green]meets[/] {result.target:g} ms: measured {result.found:.2f} ms"
    lost = "accuracy" if result.labelled else "agreement with the dense model"
    return f"[green]meets[/] {result.target:g} points: {result.found:.2f} points of {lost} lost"


def _configuration(row: Row) -> str:
    return f"ratio {row.ratio:g}, {row.precision}, batch {row.batch}"


def _speedup(found: Measured) -> str:
    """Over the twin, with its standard error, where its rounds support it."""
    if found.unsettled:
        return "not settled"
    error = "" if found.speedup_error is None else f" ± {found.speedup_error:.2f}"
    return f"{found.speedup:.2f}{error} x"


def _tokens(found: Measured) -> str:
    return " -> ".join(map(str, found.keep_counts))
