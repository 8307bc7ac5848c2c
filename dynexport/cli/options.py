"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynexport.cli.choices import BACKENDS, complete
from dynexport.errors import InputError
from dynexport.remarks import let_through


def _let_through(verbose: bool) -> bool:
    let_through(verbose)
    return verbose


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while working.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=_let_through,
        help="Tell each step's seconds, what libraries warn of, and where a fault came from.",
    ),
]
OnnxFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", show_default=False)]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A file that defines a family of your own; its code runs. May be repeated.",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        autocompletion=complete(BACKENDS),
        help="Runtime to use: onnxruntime (default), onnxruntime-cuda, onnxruntime-tensorrt, "
        "openvino or openvino-bf16.",
    ),
]
Engine = Annotated[
    Path | None,
    typer.Option(metavar="MODEL.engine", help="The TensorRT engine built from the file."),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Open an engine whatever its sidecar says: it is code.")
]


def parse_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Numbers between commas, as `3,6,9`; None where the option was not given."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} is no list of numbers: write it as 3,6,9") from None
