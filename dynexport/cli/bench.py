"""`dynexport bench`: an ONNX file or an engine, its dense twin and PyTorch, timed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dynexport.cli.choices import BACKENDS, complete_list, one_of
from dynexport.cli.console import make_table, print_json, progress, stdout
from dynexport.cli.options import (
    RUNTIME,
    TIMING,
    Engine,
    Json,
    Plugins,
    Quiet,
    Trust,
    Verbose,
    as_options,
    parse_numbers,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dynexport.bench import BenchResult, Gain
    from dynexport.runtimes.nvml import GpuConditions, GpuFacts


def bench(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL.onnx]", show_default=False)
    ] = None,
    engine: Engine = None,
    trust: Trust = False,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="B,B",
            help="Batch sizes. Default: the file's own; 1,8,32,64 on a GPU.",
            rich_help_panel=TIMING,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            autocompletion=complete_list(BACKENDS),
            help=f"Runtimes of the ONNX file: {one_of(BACKENDS, 'onnxruntime')}.",
            rich_help_panel=RUNTIME,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Cores to use. Default: each runtime's choice.", rich_help_panel=RUNTIME),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            help="Rounds, 5 or more for a speed-up; in each, every candidate runs once.",
            rich_help_panel=TIMING,
        ),
    ] = 10,
    round_seconds: Annotated[
        float, typer.Option(help="Seconds each candidate runs a round.", rich_help_panel=TIMING)
    ] = 0.5,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Time attention, MLP, predictor, gathers as well.",
            rich_help_panel=TIMING,
        ),
    ] = False,
    plugin: Plugins = None,
    pytorch: Annotated[
        bool, typer.Option(help="Time PyTorch as well.", rich_help_panel=RUNTIME)
    ] = True,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Time an ONNX file or an engine, its dense twin and PyTorch, each in its own process."""
    from dynexport.bench import bench_model
    from dynexport.bench.timing import Plan

    with progress(quiet, verbose) as on_step:
        result = bench_model(
            model,
            engine=engine,
            trust=trust,
            batches=parse_numbers("--batch", batch) or (),
            backends=tuple(backend.split(",")) if backend else (),
            threads=threads,
            pytorch=pytorch,
            profile=profile,
            plugins=plugin or (),
            plan=Plan(rounds=rounds, round_seconds=round_seconds),
            on_step=on_step,
        )
    (print_json if json else show_bench)(result)


def show_bench(result: BenchResult) -> None:
    """Latency of every candidate, and what sparsity gained of what it could."""
    console = stdout()
    first, several = result.batches[0], len(result.batches) > 1
    sizes = "" if several else f", batch {first.batch}"
    console.print(f"\n[bold]{escape(result.model)}[/]{sizes}, milliseconds")
    console.print(_bench_table(result, several))
    for line in _told_gains(result):
        console.print(escape(as_options(line)))
    if result.layers:
        _print_layers(console, result)
    if result.gpu is not None and result.conditions is not None:
        console.print(_gpu_line(result.gpu, result.conditions))
    console.print(f"[dim]{escape(_machine_line(result))}[/]")
    for note in result.notes:
        console.print(f"[dim]{escape(note)}[/]")


def _told_gains(result: BenchResult) -> Iterator[str]:
    """What sparsity gained, or why the rounds do not tell."""
    ideal = f"ideal by MACs {result.ideal:.2f} x"
    if len(result.batches) == 1:
        for gain in result.batches[0].gains:
            told = told_speedup(gain)
            share = "" if gain.unsettled else f": {told_efficiency(gain)} of it"
            yield f"{gain.runtime}: speed-up over the dense twin {told}, {ideal}{share}"
            if gain.unsettled:
                yield gain.unsettled
        return
    for batch in result.batches:
        for gain in batch.gains:
            if gain.unsettled:
                yield f"{gain.runtime}, batch {batch.batch}: {gain.unsettled}"
    if result.batches[0].gains:
        yield f"{result.batches[0].gains[0].runtime}: {_told_break_even(result)}, {ideal}"


def _told_break_even(result: BenchResult) -> str:
    if result.break_even is not None:
        return f"sparse pays from batch {result.break_even} on"
    if result.batches[-1].gains[0].pays is None:
        return "whether sparse pays at the largest batch is not settled"
    return "sparse does not pay at the largest batch"


def told_speedup(gain: Gain) -> str:
    """A speed-up and its standard error, where its rounds support it."""
    if gain.unsettled:
        return "not settled"
    return f"{gain.speedup:.2f} ± {gain.speedup_error:.2f} x"


def told_efficiency(gain: Gain) -> str:
    """The share of the ideal and its standard error, where its rounds support it."""
    if gain.unsettled:
        return "not settled"
    return f"{gain.efficiency:.1%} ± {gain.efficiency_error:.1%}"


def _bench_table(result: BenchResult, several: bool) -> Table:
    """A row a candidate, a block a batch size; where there are several, what each gained."""
    from dynexport.bench.timing import TAILS

    spreads = ("min", "p50", *TAILS)
    on_gpu = any(timing.gpu for batch in result.batches for timing in batch.timings)
    transfers = ("with transfers", "enqueue") if on_gpu else ()
    gains = ("batch", "speed-up", "of ideal") if several else ()
    table = make_table("", *spreads, *transfers, "images/s", "runs", *gains)
    for batch in result.batches:
        gained = {f"{g.runtime} sparse": g for g in batch.gains}
        for timing in batch.timings:
            tails = (timing.tail(name) for name in TAILS)
            told = [timing.computing.min, timing.computing.p50, *tails]
            cells = ["" if value is None else f"{value:.2f}" for value in told]
            if on_gpu:
                cells.append(f"{timing.total.p50:.2f}")
                cells.append("" if timing.enqueue is None else f"{timing.enqueue.p50:.3f}")
            cells += [f"{timing.images_per_second:.1f}", str(timing.runs)]
            if several:
                gain = gained.get(timing.label)
                cells.append(str(batch.batch))
                cells += [told_speedup(gain), told_efficiency(gain)] if gain else ["", ""]
            table.add_row(timing.label, *cells)
    return table


def _machine_line(result: BenchResult) -> str:
    """On what it was measured, with which versions, and when."""
    host = result.machine
    flags = f" ({' '.join(host.flags)})" if host.flags else ""
    threads = "each runtime's own" if result.threads is None else str(result.threads)
    versions = ", ".join(f"{name} {version}" for name, version in host.versions.items())
    processor = f"{host.cpu or 'an unknown processor'}{flags}, {host.cores} cores"
    return f"{processor}, threads: {threads}; {versions}; {host.date}"


def _gpu_line(gpu: GpuFacts, seen: GpuConditions) -> str:
    """On what it was measured, and whether the clocks held."""
    told = [escape(gpu.name or "a GPU without a name")]
    for label, values, unit in (
        ("SM clock", seen.sm_clock, "MHz"),
        ("memory clock", seen.memory_clock, "MHz"),
        ("power", seen.power, "W"),
        ("temperature", seen.temperature, "C"),
    ):
        if values is not None:
            told.append(f"{label} {values.min:.0f} to {values.max:.0f} {unit}")
    if seen.reasons is not None:
        held = f"slowed down by {', '.join(seen.slowed)}" if seen.slowed else "not slowed down"
        told.append(held)
    return ", ".join(told)


def _print_layers(console: Console, result: BenchResult) -> None:
    """Groups of layers, a column a candidate."""
    batch = result.batches[0].batch
    console.print(f"\n[bold]where the time goes[/], batch {batch}, milliseconds")
    table = make_table("", *result.layers)
    groups = next(iter(result.layers.values()))
    for group in groups:
        table.add_row(group, *(f"{times[group]:.2f}" for times in result.layers.values()))
    table.add_row("sum", *(f"{sum(times.values()):.2f}" for times in result.layers.values()))
    console.print(table)
