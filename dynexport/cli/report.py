"""`dynexport report`: a folder of converted models as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dynexport.cli.bench import told_efficiency, told_speedup
from dynexport.cli.console import make_table, print_json, progress, stdout
from dynexport.cli.options import Backend, Json, Quiet, Verbose

if TYPE_CHECKING:
    from dynexport.bench import BenchResult
    from dynexport.report import Report
    from dynexport.verify import Verification


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="What was converted into."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT.html", help="Page to write. Default: DIR/report.html."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|NPZ",
            help="Images to show what is kept of. Default: those of the reference bundles.",
        ),
    ] = None,
    backend: Backend = None,
    bench: Annotated[bool, typer.Option(help="Time each model beside its dense twin.")] = True,
    rounds: Annotated[
        int,
        typer.Option(help="Rounds, 5 or more for a speed-up; in each, every candidate runs once."),
    ] = 10,
    round_seconds: Annotated[
        float, typer.Option(help="Seconds each candidate runs in a round.")
    ] = 0.5,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Report on a folder of converted models: one HTML page that needs no network."""
    from dynexport.bench.timing import Plan
    from dynexport.report import write_report

    with progress(quiet, verbose) as on_step:
        result = write_report(
            folder,
            output=output,
            images=images,
            backend=backend,
            bench=bench,
            plan=Plan(rounds=rounds, round_seconds=round_seconds),
            on_step=on_step,
        )
    if json:
        print_json(result.to_plain())
    else:
        show_report(result)


def show_report(result: Report) -> None:
    """A line a model and an engine: is it verified, what does it gain; and where the page is."""
    console = stdout()
    if result.models:
        table = make_table("model", "verified", "speed-up", "of ideal")
        for model in result.models:
            table.add_row(escape(model.file), _verdict(model.verification), *_gain(model.bench))
            for engine in model.engines:
                verdict = "not run" if engine.idle else _verdict(engine.verification)
                table.add_row(escape(engine.file), verdict, *_gain(engine.bench))
        console.print(table)
    for engine in result.engines:
        if engine.idle is not None:
            console.print(f"[yellow]not run[/] {escape(engine.file)}: {escape(engine.idle)}")
    for name, reason in result.strangers.items():
        console.print(f"[yellow]left out[/] {escape(name)}: {escape(reason)}")
    console.print(f"wrote {escape(result.html)}")
    console.print(f"      {escape(result.json)}")


def _verdict(verification: Verification | None) -> str:
    if verification is None:
        return "not known"
    return "[green]yes[/]" if verification.passed else "[red]NO[/]"


def _gain(bench: BenchResult | None) -> tuple[str, str]:
    if bench is None or bench.gain is None:
        return "", ""
    return told_speedup(bench.gain), told_efficiency(bench.gain)
