"""`dynexport optimize`: an ONNX file of a token-pruning model made lean, whoever exported it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dynexport.cli.console import make_table, print_json, progress, stdout
from dynexport.cli.options import Json, OnnxFile, Quiet, Verbose, as_options

if TYPE_CHECKING:
    from dynexport.optimize import Optimization


def optimize(
    model: OnnxFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="LEAN.onnx", help="File to write. Default: MODEL-lean.onnx."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|NPZ", help="Images to compare outputs on. Default: synthetic ones."
        ),
    ] = None,
    img_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Images a file is for that leaves height and width open, pixels: 224, or "
            "HEIGHTxWIDTH, 224x448.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Accepted error of outputs, relative to the largest (at least 1). Default: by "
            "precision, 1e-4 for fp32."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make an ONNX file of a token-pruning model lean, whoever exported it; outputs stay."""
    from dynexport.optimize import optimize_model

    with progress(quiet, verbose) as on_step:
        result = optimize_model(
            model, output, images=images, img_size=img_size, tolerance=tolerance, on_step=on_step
        )
    (print_json if json else show_optimization)(result)


def show_optimization(result: Optimization) -> None:
    """Pass by pass what was done, what it saved, and by how much outputs moved."""
    console = stdout()
    for change in result.changes:
        console.print(f"first: {escape(change)}")
    told = [done for done in result.passes if done.applied]
    if told:
        table = make_table("pass", "times", "")
        table.columns[2].justify = "left"
        for done in told:
            table.add_row(done.name, str(done.applied), done.what)
        console.print(table)
    for done in result.passes:
        if done.left_out:
            console.print(f"[yellow]left out[/] {done.name}: {escape(done.left_out)}")
    if result.unchanged:
        console.print(f"unchanged: {escape(as_options(result.reason))}")
        console.print(f"wrote {escape(result.output)}, a copy of {escape(result.model)}")
        return
    before, after = result.nodes
    macs = (
        ""
        if result.macs is None
        else ", {:.3f} -> {:.3f} GMACs an image".format(*(count / 1e9 for count in result.macs))
    )
    console.print(f"{before} -> {after} nodes{macs}, opset {result.opset[0]} -> {result.opset[1]}")
    tied = f"; {result.ties} with near-tied tokens in another order" if result.ties else ""
    console.print(
        f"[green]same outputs[/] on {result.images} images, half of them {escape(result.source)} "
        f"and half random: error {result.error:.1e}{tied}"
    )
    megabytes = result.size_bytes / 1e6
    console.print(f"wrote {escape(result.output)} ({megabytes:.1f} MB) in {result.seconds:.1f} s")
    console.print(f"next: dynexport check {escape(shlex.quote(result.output))}")
