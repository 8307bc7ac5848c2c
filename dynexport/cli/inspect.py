"""`dynexport inspect`: what a checkpoint, an ONNX file or an engine is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from dynexport.cli.options import Json, Plugins, Quiet, Verbose
from dynexport.console import print_json, progress, stdout


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Tell what a checkpoint, an ONNX file or an engine is."""
    from dynexport.inspection import inspect_file

    with progress(quiet, verbose) as on_step:
        on_step(f"read {file}")
        facts = inspect_file(file, plugins=plugin or ())
    (print_json if json else show_facts)(facts)


def show_facts(facts: dict[str, Any]) -> None:
    """What `inspect` found, a line a fact."""
    console = stdout()
    for name, value in facts.items():
        if isinstance(value, dict):
            console.print(f"[bold]{escape(name)}[/]")
            for key, item in value.items():
                console.print(escape(f"  {key:<20} {_plain(item)}"))
        else:
            console.print(escape(f"{name:<22} {_plain(value)}"))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
