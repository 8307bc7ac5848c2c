"""`dynexport convert`: a checkpoint to a verified ONNX file, and an engine where asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynexport.cli import choices
from dynexport.cli.choices import complete, complete_list
from dynexport.cli.console import build_progress, print_json
from dynexport.cli.convert_results import show_conversion
from dynexport.cli.options import (
    KEPT,
    MODEL,
    PRECISION,
    WRITTEN,
    BuildEdition,
    CalibrationData,
    CalibrationImages,
    Checkpoint,
    CropPct,
    Expect,
    ImgSize,
    Json,
    Mean,
    Model,
    NumHeads,
    Plugins,
    PruneAt,
    Quiet,
    Std,
    Verbose,
    Warp,
    Weights,
    engine_and_edition,
    parse_numbers,
    told_of_pictures,
    warn,
)


def convert(
    checkpoint: Checkpoint,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Base keep ratio in (0, 1], spread over the stages by the family's "
            "schedule. Default: what the checkpoint was trained with.",
            rich_help_panel=KEPT,
        ),
    ] = None,
    ratios: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,R", help="Keep ratio of each stage instead.", rich_help_panel=KEPT
        ),
    ] = None,
    align: Annotated[
        int,
        typer.Option(
            help="Keep a few tokens more, so that blocks compute a multiple of so many rows, the "
            "class token's included.",
            rich_help_panel=KEPT,
        ),
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT.onnx", help="File to write.", rich_help_panel=WRITTEN
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Batch size, or smallest:optimal:largest. Default: 1:8:64; 8 for TensorRT "
            "(--target tensorrt, --engine, --edition) and in half precision.",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    expect: Expect = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images, or .npz, to record PyTorch's answers on.",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Export the twin that drops nothing.", rich_help_panel=KEPT),
    ] = False,
    emit_kept: Annotated[
        bool,
        typer.Option(
            "--emit-kept", help="Add outputs kept_0 ...: positions kept.", rich_help_panel=WRITTEN
        ),
    ] = False,
    model: Model = None,
    prune_at: PruneAt = None,
    num_heads: NumHeads = None,
    img_size: ImgSize = None,
    mean: Mean = None,
    std: Std = None,
    crop_pct: CropPct = None,
    warp: Warp = False,
    task: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete(choices.TASKS),
            help=f"What the model is for: {choices.TASKS_DESCRIBED}.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    weights: Weights = None,
    args: Annotated[
        list[str] | None,
        typer.Option(
            "--arg",
            metavar="NAME=VALUE",
            help="What the training's recorded args leave open, as skip_lam=1. May be repeated.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse what has to be assumed.", rich_help_panel=MODEL),
    ] = False,
    precision: Annotated[
        str,
        typer.Option(
            autocompletion=complete(choices.PRECISIONS),
            help=f"Of weights and activations: {choices.PRECISIONS_DESCRIBED}.",
            rich_help_panel=PRECISION,
        ),
    ] = "fp32",
    io_precision: Annotated[
        str,
        typer.Option(
            autocompletion=complete(choices.IO_PRECISIONS),
            help="Of inputs and outputs: fp32, or half with fp16 and int8-fp16.",
            rich_help_panel=PRECISION,
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
            rich_help_panel=PRECISION,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Draw the calibration images at random. Default: evenly spread.",
            rich_help_panel=PRECISION,
        ),
    ] = None,
    fallback_to: Annotated[
        str | None,
        typer.Option(
            metavar="auto",
            autocompletion=complete(choices.FALLBACKS),
            help="auto: rank layers by the harm of int8, and raise the worst back to float until "
            "--target-agreement is met.",
            rich_help_panel=PRECISION,
        ),
    ] = None,
    target_agreement: Annotated[
        float,
        typer.Option(
            help="Share of images held out whose class must stay.", rich_help_panel=PRECISION
        ),
    ] = 0.99,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="OUT.engine",
            help="Build an engine as well, to this file. With --edition alone: beside OUT.onnx.",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    edition: BuildEdition = None,
    plugin: Plugins = None,
    opset: Annotated[
        int,
        typer.Option(
            help="ONNX opset, 17 to 23; below 20 for older tools.", rich_help_panel=WRITTEN
        ),
    ] = 20,
    target: Annotated[
        str,
        typer.Option(
            autocompletion=complete(choices.TARGETS),
            help="any runtime, or tensorrt: standard operators alone.",
            rich_help_panel=WRITTEN,
        ),
    ] = "any",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn a checkpoint into a verified ONNX file and its reference bundle."""
    from dynexport import conversion
    from dynexport.precision import Precision

    engine_file, engine_edition = engine_and_edition(engine, edition)
    methods = _methods(calibration_method)
    recipe = conversion.Recipe(
        checkpoint,
        ratio=ratio,
        ratios=ratios,
        align=align,
        dense=dense,
        model=model,
        prune_at=parse_numbers("--prune-at", prune_at),
        num_heads=num_heads,
        img_size=img_size,
        **told_of_pictures(mean, std, crop_pct, warp),
        task=task,
        weights=weights,
        batch=batch,
        images=images,
        emit_kept=emit_kept,
        opset=opset,
        target=target,
        precision=Precision(
            *(precision, io_precision, calibration_data, calibration_images, seed, methods),
            fallback_to=fallback_to,
            target_agreement=target_agreement,
        ),
        engine=engine_file,
        edition=engine_edition,
        output=output,
        plugins=tuple(plugin or ()),
        args=tuple(args or ()),
        strict=strict,
        expect=expect,
    )
    with build_progress(quiet, verbose) as (step, progress):
        result = conversion.convert(recipe, on_step=step, on_warning=warn, on_progress=progress)
    (print_json if json else show_conversion)(result)


def _methods(text: str | None) -> tuple[str, ...]:
    """Methods of calibration between commas; all of them where none are named."""
    from dynexport.calibration import METHODS

    return tuple(text.split(",")) if text else METHODS
