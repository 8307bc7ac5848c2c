"""`dynexport convert`: a checkpoint to a verified ONNX file, and an engine where asked."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dynexport.cli import choices
from dynexport.cli.build import show_build
from dynexport.cli.choices import complete, complete_list
from dynexport.cli.console import (
    build_progress,
    macs_unit,
    make_table,
    print_json,
    show_warning,
    stdout,
)
from dynexport.cli.options import (
    BuildEdition,
    CalibrationData,
    CalibrationImages,
    Checkpoint,
    ImgSize,
    Json,
    Model,
    NumHeads,
    Plugins,
    PruneAt,
    Quiet,
    Verbose,
    Weights,
    engine_and_edition,
    parse_numbers,
)
from dynexport.cli.verify import show_verification
from dynexport.schedule import format_ratios

if TYPE_CHECKING:
    from rich.console import Console

    from dynexport.conversion import Conversion
    from dynexport.formats.metadata import Metadata
    from dynexport.precision import PrecisionReport


def convert(
    checkpoint: Checkpoint,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Base keep ratio in (0, 1], spread over the stages by the family's "
            "schedule. Default: what the checkpoint was trained with."
        ),
    ] = None,
    ratios: Annotated[
        str | None, typer.Option(metavar="R,R,R", help="Keep ratio of each stage instead.")
    ] = None,
    align: Annotated[
        int,
        typer.Option(
            help="Keep a few tokens more, so that blocks compute a multiple of so many rows, the "
            "class token's included."
        ),
    ] = 1,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT.onnx", help="File to write.")
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Batch size, or smallest:optimal:largest, as in 1:8:64.")
    ] = "8",
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images, or .npz, to record PyTorch's answers on."),
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="Export the twin that drops nothing.")] = (
        False
    ),
    emit_kept: Annotated[
        bool, typer.Option("--emit-kept", help="Add outputs kept_0 ...: positions kept.")
    ] = False,
    model: Model = None,
    prune_at: PruneAt = None,
    num_heads: NumHeads = None,
    img_size: ImgSize = None,
    task: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete(choices.TASKS),
            help="classify (default), or features: the maps of a Swin's or a ConvNeXt's four "
            "stages, feat_0 ... feat_3.",
        ),
    ] = None,
    weights: Weights = None,
    precision: Annotated[
        str,
        typer.Option(
            autocompletion=complete(choices.PRECISIONS),
            help=f"Of weights and activations: {choices.PRECISIONS_DESCRIBED}.",
        ),
    ] = "fp32",
    io_precision: Annotated[
        str,
        typer.Option(
            autocompletion=complete(choices.IO_PRECISIONS),
            help="Of inputs and outputs: fp32, or half with fp16 and int8-fp16.",
        ),
    ] = "fp32",
    calibration_data: CalibrationData = None,
    calibration_images: CalibrationImages = 512,
    calibration_method: Annotated[
        str | None,
        typer.Option(
            metavar="M,M",
            autocompletion=complete_list(choices.METHODS),
            help="min-max, percentile, entropy, mse. Default: for each layer, what errs least on "
            "images held out.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Draw the calibration images at random. Default: evenly spread."),
    ] = None,
    fallback_to: Annotated[
        str | None,
        typer.Option(
            metavar="auto",
            autocompletion=complete(choices.FALLBACKS),
            help="auto: rank layers by the harm of int8, and raise the worst back to float until "
            "--target-agreement is met.",
        ),
    ] = None,
    target_agreement: Annotated[
        float, typer.Option(help="Share of images held out whose class must stay.")
    ] = 0.99,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="OUT.engine",
            help="Build an engine as well, to this file. With --edition alone: beside OUT.onnx.",
        ),
    ] = None,
    edition: BuildEdition = None,
    plugin: Plugins = None,
    opset: Annotated[int, typer.Option(help="ONNX opset, 20 or later.")] = 20,
    target: Annotated[
        str,
        typer.Option(
            autocompletion=complete(choices.TARGETS),
            help="any runtime, or tensorrt: standard operators alone.",
        ),
    ] = "any",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn a checkpoint into a verified ONNX file and its reference bundle."""
    from dynexport.conversion import Recipe
    from dynexport.conversion import convert as run
    from dynexport.precision import Precision

    engine_file, engine_edition = engine_and_edition(engine, edition)
    recipe = Recipe(
        checkpoint,
        ratio=ratio,
        ratios=ratios,
        align=align,
        dense=dense,
        model=model,
        prune_at=parse_numbers("--prune-at", prune_at),
        num_heads=num_heads,
        img_size=img_size,
        task=task,
        weights=weights,
        batch=batch,
        images=images,
        emit_kept=emit_kept,
        opset=opset,
        target=target,
        precision=Precision(
            precision,
            io=io_precision,
            calibration_data=calibration_data,
            calibration_images=calibration_images,
            seed=seed,
            methods=_methods(calibration_method),
            fallback_to=fallback_to,
            target_agreement=target_agreement,
        ),
        engine=engine_file,
        edition=engine_edition,
        output=output,
        plugins=tuple(plugin or ()),
    )
    with build_progress(quiet, verbose) as (on_step, on_progress):
        result = run(recipe, on_step=on_step, on_warning=show_warning, on_progress=on_progress)
    (print_json if json else show_conversion)(result)


def _methods(text: str | None) -> tuple[str, ...]:
    """Methods of calibration between commas; all of them where none are named."""
    from dynexport.calibration import METHODS

    return tuple(text.split(",")) if text else METHODS


def show_conversion(result: Conversion) -> None:
    """What was converted, what it gained, how it was verified, where it is."""
    console = stdout()
    facts = result.metadata
    console.print(f"\n[bold]{escape(facts.variant)}[/] {_tokens(facts)}")
    table = make_table("", "dense", "this model", "ratio")
    macs = (facts.macs_dense, facts.macs_sparse)
    unit, scale = macs_unit(macs)
    shown = (f"{count / scale:.2f}" for count in macs)
    table.add_row(f"{unit} an image", *shown, f"{macs[0] / macs[1]:.2f} x")
    nodes = (facts.nodes_dense, facts.nodes)
    table.add_row("ONNX nodes", *map(str, nodes), f"{nodes[1] / nodes[0]:.2f}")
    console.print(table)
    console.print(
        f"rewrite proved on {result.proof.images} images: error {result.proof.max_abs_error:.1e} "
        f"against the dense masked form, outputs up to {result.proof.scale:.3g}"
    )
    _print_precision(console, result.precision)
    show_verification(result.verification)
    seconds, megabytes = sum(result.seconds.values()), result.size_bytes / 1e6
    console.print(f"wrote {escape(result.onnx)} ({megabytes:.1f} MB) in {seconds:.1f} s")
    console.print(f"      {escape(result.reference)}")
    if result.engine is not None:
        show_build(result.engine)
    elif facts.precision["name"] == "bf16":
        console.print(f"next: dynexport build {escape(shlex.quote(result.onnx))}")
    elif facts.keep_counts:
        console.print(f"next: dynexport bench {escape(shlex.quote(result.onnx))}")


def _tokens(facts: Metadata) -> str:
    if facts.ratios is None:
        return f"dense, {facts.num_tokens} tokens"
    counts = " -> ".join(map(str, (facts.num_tokens, *facts.keep_counts)))
    rows = "" if facts.align == 1 else f", rows in multiples of {facts.align}"
    return f"at {format_ratios(facts.ratios)}: {counts} tokens{rows}"


def _print_precision(console: Console, done: PrecisionReport) -> None:
    """What stayed in float32, what was calibrated, and the harm of int8 layer by layer."""
    if done.single:
        told = ", ".join(f"{name} ({largest:.2g})" for name, largest in done.single.items())
        console.print(f"too large for half precision, so in float32: {escape(told)}")
    if done.int8 is None:
        return
    made = done.int8
    methods = Counter(chosen.method for chosen in made.ranges)
    smoothed = sum(chosen.alpha is not None for chosen in made.ranges)
    console.print(
        f"calibrated {len(made.ranges)} layers on {made.images} of {escape(done.images)}: "
        + ", ".join(f"{method} {count}" for method, count in methods.most_common())
        + (f"; {smoothed} smoothed" if smoothed else "")
    )
    near = made.nearness
    kept = ", ".join(f"{overlap:.1%}" for overlap in near.overlaps)
    console.print(
        f"on {made.tried} of {made.held_out} images held out: agreement {near.agreement:.1%}, "
        f"divergence {near.divergence:.1e}"
        + (
            f"; kept sets {kept}; predictors in {'int8' if made.predictors else 'float32'}"
            if kept
            else ""
        )
    )
    if made.ranking:
        table = make_table("int8 here alone", "divergence", "agreement", "")
        for place in made.ranking:
            back = "raised" if set(place.layers) <= set(made.raised) else ""
            table.add_row(
                ", ".join(place.layers), f"{place.divergence:.1e}", f"{place.agreement:.1%}", back
            )
        console.print(table)
