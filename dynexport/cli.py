"""The command line: each command parses, calls one function and prints its result."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from dynexport import __version__
from dynexport.errors import DynexportError, InputError

app = typer.Typer(
    help="Deploy dynamically sparse vision models: convert a checkpoint to a lean, verified ONNX "
    "file, and measure it beside its dense twin.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while working.")]
OnnxFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", show_default=False)]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A file that defines a family of your own; its code runs. May be repeated.",
    ),
]
Backend = Annotated[str, typer.Option(help="Runtime to use: onnxruntime.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"dynexport {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", show_default=False, help=".pth .pt .tar .safetensors")
    ],
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
    model: Annotated[
        str | None, typer.Option(help="Published variant, where tensors do not tell: deit-s ...")
    ] = None,
    prune_at: Annotated[
        str | None, typer.Option(metavar="B,B,B", help="Blocks the sparsifiers stand before.")
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option(help="Attention heads, where not 64 channels each.")
    ] = None,
    img_size: Annotated[
        int | None, typer.Option(help="Another image size than it was trained at, pixels.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classify (default), or features: the maps of a Swin's or a ConvNeXt's four "
            "stages, feat_0 ... feat_3."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Which weights of the file: model or model_ema.")
    ] = None,
    plugin: Plugins = None,
    opset: Annotated[int, typer.Option(help="ONNX opset, 20 or later.")] = 20,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a checkpoint into a verified ONNX file and its reference bundle."""
    from dynexport.console import print_json, progress, show_conversion, show_warning
    from dynexport.pipeline import convert as run

    with progress(quiet) as on_step:
        result = run(
            checkpoint,
            ratio=ratio,
            ratios=ratios,
            dense=dense,
            model=model,
            prune_at=_numbers(prune_at),
            num_heads=num_heads,
            img_size=img_size,
            task=task,
            weights=weights,
            batch=batch,
            images=images,
            emit_kept=emit_kept,
            opset=opset,
            output=output,
            plugins=plugin or (),
            on_step=on_step,
            on_warning=show_warning,
        )
    (print_json if json else show_conversion)(result)


@app.command()
def verify(
    model: OnnxFile,
    reference: Annotated[
        Path | None,
        typer.Option(help="Reference bundle. Default: the .reference.npz beside the model."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Ask PyTorch afresh, from this checkpoint.")
    ] = None,
    plugin: Plugins = None,
    tolerance: Annotated[
        float, typer.Option(help="Accepted error of logits, relative to the largest (at least 1).")
    ] = 1e-4,
    backend: Backend = "onnxruntime",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Replay PyTorch's recorded answers through an ONNX file; exit 1 where they differ."""
    from dynexport.console import print_json, progress, show_verification
    from dynexport.pipeline import verify_model

    with progress(quiet) as on_step:
        on_step(f"verify {model} with {backend}")
        result = verify_model(
            model,
            reference=reference,
            checkpoint=checkpoint,
            backend=backend,
            tolerance=tolerance,
            plugins=plugin or (),
        )
    (print_json if json else show_verification)(result)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def bench(
    model: OnnxFile,
    batch: Annotated[
        int | None, typer.Option(help="Batch size. Default: the one the file was made for.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Cores to use. Default: each runtime's choice.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; in each, every candidate runs once.")] = 10,
    round_seconds: Annotated[float, typer.Option(help="Seconds each candidate runs a round.")] = (
        0.5
    ),
    plugin: Plugins = None,
    pytorch: Annotated[bool, typer.Option(help="Time PyTorch as well.")] = True,
    backend: Backend = "onnxruntime",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time an ONNX file, its dense twin and PyTorch, each in its own process, in turn."""
    from dynexport.bench import bench_model
    from dynexport.console import print_json, progress, show_bench
    from dynexport.timing import Plan

    with progress(quiet) as on_step:
        result = bench_model(
            model,
            batch=batch,
            backend=backend,
            threads=threads,
            pytorch=pytorch,
            plugins=plugin or (),
            plan=Plan(rounds=rounds, round_seconds=round_seconds),
            on_step=on_step,
        )
    (print_json if json else show_bench)(result)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Tell what a checkpoint or an ONNX file is."""
    from dynexport.console import print_json, show_facts
    from dynexport.inspection import inspect_file

    facts = inspect_file(file, plugins=plugin or ())
    (print_json if json else show_facts)(facts)


@app.command()
def models(plugin: Plugins = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the published variants: size, multiply-accumulates by keep ratio, accuracy."""
    from dynexport.console import print_json, progress, show_models
    from dynexport.inspection import list_models

    with progress(quiet) as on_step:
        rows = list_models(on_step, plugins=plugin or ())
    (print_json if json else show_models)(rows)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--prune-at {text!r} is no list of blocks: write it as 3,6,9") from None


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; every expected error is one sentence on stderr and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that drafts are removed
    try:
        app(arguments, standalone_mode=True)
    except DynexportError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)
    raise AssertionError("unreachable: a standalone app exits by itself")
