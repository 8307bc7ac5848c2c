"""`dynexport sweep`: a checkpoint at many keep ratios, or the schedule that meets a target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dynexport.cli import choices
from dynexport.cli.choices import complete, complete_list, one_of
from dynexport.cli.console import print_json, progress, show_note
from dynexport.cli.options import (
    ACCURACY,
    KEPT,
    PRECISION,
    TIMING,
    WRITTEN,
    CalibrationData,
    CalibrationImages,
    Checkpoint,
    CropPct,
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
    parse_latency,
    parse_numbers,
    told_of_pictures,
    warn,
)
from dynexport.cli.sweep_inputs import make_precisions, make_recipe, make_rig, only_one
from dynexport.cli.sweep_results import row_printer, show_search, show_sweep
from dynexport.errors import InputError


def sweep(
    checkpoint: Checkpoint,
    ratios: Annotated[
        str | None,
        typer.Option(
            metavar="A:B:STEP",
            help="Base keep ratios, both ends included, as 0.5:1.0:0.1; or a list, 0.5,0.7.",
            rich_help_panel=KEPT,
        ),
    ] = None,
    target_latency: Annotated[
        str | None,
        typer.Option(
            metavar="12ms",
            help="Search, in place of --ratios: the schedule that takes no longer for a batch and "
            "harms least.",
            rich_help_panel=KEPT,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Search, in place of --ratios: the cheapest schedule that loses no more points of "
            "accuracy (of agreement, without labels) against the dense model.",
            rich_help_panel=KEPT,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|NPZ",
            help="Images to judge on: a folder, for each class one where it has labels, or an "
            ".npz. Default: synthetic ones.",
            rich_help_panel=ACCURACY,
        ),
    ] = None,
    data_images: Annotated[
        int | None,
        typer.Option(
            help="How many of them, evenly spread. Default: all.", rich_help_panel=ACCURACY
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            autocompletion=complete_list(choices.PRECISIONS),
            help=f"{', '.join(choices.PRECISIONS)}.",
            rich_help_panel=PRECISION,
        ),
    ] = "fp32",
    calibration_data: CalibrationData = None,
    calibration_images: CalibrationImages = 512,
    batch: Annotated[
        str, typer.Option(metavar="B,B", help="Batch sizes.", rich_help_panel=TIMING)
    ] = "8",
    backend: Annotated[
        str,
        typer.Option(
            autocompletion=complete(choices.BACKENDS),
            help=f"Runtime to time and judge in: {one_of(choices.BACKENDS)}.",
            rich_help_panel=TIMING,
        ),
    ] = "onnxruntime",
    threads: Annotated[
        int | None,
        typer.Option(
            help="Cores to time on. Default: the runtime's choice.", rich_help_panel=TIMING
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            help="Rounds, 5 or more for a speed-up; in each, file and twin run once.",
            rich_help_panel=TIMING,
        ),
    ] = 5,
    round_seconds: Annotated[
        float, typer.Option(help="Seconds each of them runs a round.", rich_help_panel=TIMING)
    ] = 0.5,
    step: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            help="Of a search: how many fewer at a time. Default: 1/16 of them.",
            rich_help_panel=KEPT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Folder for rows, table and plot; a sweep that was stopped goes on there. "
            "Default: CKPT-sweep.",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    keep_models: Annotated[
        bool,
        typer.Option(
            "--keep-models", help="Keep the ONNX files too, in DIR/models.", rich_help_panel=WRITTEN
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Try those again that failed.", rich_help_panel=WRITTEN
        ),
    ] = False,
    align: Annotated[
        int, typer.Option(help="As in convert: rows in multiples of so many.", rich_help_panel=KEPT)
    ] = 1,
    model: Model = None,
    prune_at: PruneAt = None,
    num_heads: NumHeads = None,
    img_size: ImgSize = None,
    mean: Mean = None,
    std: Std = None,
    crop_pct: CropPct = None,
    warp: Warp = False,
    weights: Weights = None,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Try a checkpoint at many keep ratios, or search the schedule that meets a target.

    Exit 1 where a configuration failed or the target cannot be met.
    """
    from dynexport.sweep import search_schedule, sweep_checkpoint

    _require_one_use(ratios, target_latency, max_drop, step, keep_models, retry_failed)
    told = (checkpoint, model, prune_at, num_heads, img_size, weights, align, data, plugin)
    recipe = make_recipe(*told, told_of_pictures(mean, std, crop_pct, warp))
    kinds = make_precisions(precision, calibration_data, calibration_images)
    sizes = parse_numbers("--batch", batch) or ()
    rig = make_rig(backend, threads, rounds, round_seconds)
    if ratios is not None:
        with _stopped_softly(quiet), progress(quiet, verbose) as on_step:
            swept = sweep_checkpoint(
                recipe,
                ratios,
                precisions=kinds,
                batches=sizes,
                data_images=data_images,
                rig=rig,
                output=output,
                keep_models=keep_models,
                retry_failed=retry_failed,
                on_step=on_step,
                on_warning=warn,
                on_row=row_printer(quiet),
            )
        (print_json if json else show_sweep)(swept)
        raise typer.Exit(0 if swept.passed else 1)
    with progress(quiet, verbose) as on_step:
        found = search_schedule(
            only_one(recipe, kinds, sizes),
            target_latency=None if target_latency is None else parse_latency(target_latency),
            max_drop=max_drop,
            data_images=data_images,
            rig=rig,
            step=step,
            output=output,
            on_step=on_step,
            on_warning=warn,
        )
    (print_json if json else show_search)(found)


@contextmanager
def _stopped_softly(quiet: bool) -> Iterator[None]:
    """Says that what is finished is not lost, where a sweep is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if not quiet:
            show_note("stopped: the same command goes on with the rows that are finished")
        raise


def _require_one_use(
    ratios: str | None,
    target_latency: str | None,
    max_drop: float | None,
    step: int | None,
    keep_models: bool,
    retry_failed: bool,
) -> None:
    """InputError unless it is a sweep or a search, with no option of the other."""
    if sum(option is not None for option in (ratios, target_latency, max_drop)) != 1:
        raise InputError(
            "give one of --ratios, as in 0.5:1.0:0.1, --target-latency, as in 12ms, or "
            "--max-drop, as in 0.5"
        )
    if ratios is not None:
        if step is not None:
            raise InputError("--step is of a search: leave it out")
        return
    for option, given in (("--keep-models", keep_models), ("--retry-failed", retry_failed)):
        if given:
            raise InputError(f"{option} is of a sweep over --ratios: leave it out")
