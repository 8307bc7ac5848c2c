"""`dynexport build`: a TensorRT engine of an ONNX file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dynexport.cli.console import build_progress, print_json, stdout
from dynexport.cli.options import Edition, Json, OldEdition, OnnxFile, Quiet, Verbose, edition_of

if TYPE_CHECKING:
    from dynexport.engine import EngineBuild


def build(
    model: OnnxFile,
    edition: Edition = "auto",
    backend: OldEdition = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT.engine", help="File to write.")
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(
            help="Batch size, or smallest:optimal:largest; repeated for several profiles. "
            "Default: what the file was made for."
        ),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(metavar="MIB", help="Memory a layer may use, MiB.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(help="0, fast to build, to 5, fast to run.")
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let float32 products round their factors to TF32.")
    ] = False,
    compute_capability: Annotated[
        str | None,
        typer.Option(metavar="8.6,8.9", help="GPUs to build for (tensorrt-rtx). Default: all."),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Run in later versions too (tensorrt).")
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option("--hardware-compatible", help="Run on any GPU from Ampere on (tensorrt)."),
    ] = False,
    dla_core: Annotated[
        int | None, typer.Option(help="DLA core of a Jetson; the GPU takes what it cannot.")
    ] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be exchanged later.")] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Leave the weights out, to be refitted.")
    ] = False,
    timing_cache: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Measurements to reuse (tensorrt), or none. Default: a cached one."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Build a TensorRT engine of an ONNX file, and the sidecar that says what it is."""
    from dynexport.engine import build_engine
    from dynexport.runtimes.tensorrt.options import BuildOptions

    options = BuildOptions(
        workspace_mib=workspace,
        optimization_level=optimization_level,
        tf32=tf32,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        compute_capabilities=tuple((compute_capability or "").replace(" ", "").split(","))
        if compute_capability
        else (),
        dla_core=dla_core,
        refit=refit,
        strip_weights=strip_weights,
        timing_cache=timing_cache,
    )
    with build_progress(quiet, verbose) as (on_step, on_progress):
        result = build_engine(
            model,
            edition=edition_of(edition, backend),
            batches=batch or (),
            options=options,
            output=output,
            on_step=on_step,
            on_progress=on_progress,
        )
    (print_json if json else show_build)(result)


def show_build(result: EngineBuild) -> None:
    """What was built, for what, and where it is."""
    console = stdout()
    facts = result.facts
    runs_on = facts.gpu or f"compute capability {', '.join(facts.capabilities)}"
    console.print(
        f"built with {facts.flavour} {facts.version} for {escape(runs_on)}: {facts.precision}, "
        f"batch {', '.join(facts.batches)}"
    )
    if facts.layers:
        console.print(
            f"{len(facts.layers)} layers, {facts.fused_attention} of them fused attention"
        )
    megabytes = result.size_bytes / 1e6
    console.print(f"wrote {escape(result.engine)} ({megabytes:.1f} MB) in {facts.seconds:.1f} s")
    console.print(f"      {escape(result.sidecar)}")
    console.print(f"next: dynexport bench --engine {escape(shlex.quote(result.engine))}")
