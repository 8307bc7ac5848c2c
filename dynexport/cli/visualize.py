"""`dynexport visualize`: pictures of what a model keeps of images, and what it takes them for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dynexport.cli.console import make_table, print_json, progress, stdout
from dynexport.cli.options import Backend, Engine, Json, OnnxFile, Quiet, Trust, Verbose

if TYPE_CHECKING:
    from dynexport.visualize import Visualization


def visualize(
    model: OnnxFile,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES", show_default=False, help="Pictures, folders of them, or .npz."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT.png", help="Picture to write. Default: MODEL.png."
        ),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Draw what each stage ranked patches by as well.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The name of one class a line. Default: ImageNet-1k's for 1000 classes, else "
            "numbers.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to tell of each image.")] = 3,
    count: Annotated[
        int | None,
        typer.Option(help="How many images of a folder or .npz, evenly spread. Default: 8."),
    ] = None,
    font: Annotated[
        Path | None,
        typer.Option(metavar="FILE.ttf", help="Font for names that are not in ASCII."),
    ] = None,
    backend: Backend = None,
    engine: Engine = None,
    trust: Trust = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw what an ONNX file or an engine keeps of images, stage by stage, and its classes."""
    from dynexport.visualize import visualize_images

    with progress(quiet, verbose) as on_step:
        result = visualize_images(
            model,
            images,
            output,
            engine=engine,
            trust=trust,
            backend=backend,
            labels=labels,
            scores=scores,
            count=count,
            top=top,
            font=font,
            on_step=on_step,
        )
    (print_json if json else show_visualization)(result)


def show_visualization(result: Visualization) -> None:
    """How much is kept, what each image was taken for, and where the picture is."""
    from dynexport.visualize.look import drawn_of

    console = stdout()
    left = " -> ".join(map(str, (result.num_tokens, *result.keep_counts)))
    console.print(f"[bold]{escape(result.variant)}[/] in {result.backend}: {left} tokens")
    if not result.keep_counts:
        console.print("a dense model: nothing is dropped, so there is no stage to draw")
    if told := drawn_of(result.channels):
        console.print(f"drawn: {told.removeprefix(', ')}")
    table = make_table("image", "classes")
    table.columns[1].justify = "left"
    for image in result.images:
        told = ", ".join(f"{name} {share:.1%}" for name, share in image.classes)
        table.add_row(escape(image.name), escape(told))
    console.print(table)
    width, height = result.size
    console.print(f"wrote {escape(result.output)} ({width} x {height} pixels)")
