"""`dynexport check`: what TensorRT will make of an ONNX file, whoever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from dynexport.cli.console import print_json, progress, stdout
from dynexport.cli.options import Edition, Json, OldEdition, OnnxFile, Quiet, Verbose, edition_of

if TYPE_CHECKING:
    from dynexport.check import Preflight
    from dynexport.graph.rule import Finding


def check(
    model: OnnxFile,
    edition: Edition = "auto",
    backend: OldEdition = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Tell what TensorRT will make of an ONNX file, whoever wrote it; exit 1 where it refuses."""
    from dynexport.check import check_model

    with progress(quiet, verbose) as on_step:
        on_step(f"check {model}")
        result = check_model(model, edition=edition_of(edition, backend))
    print_json(result.to_plain()) if json else show_preflight(result)
    if not result.passed:
        raise typer.Exit(1)


def show_preflight(result: Preflight) -> None:
    """A line a finding, those that many nodes share as one, and what becomes of the file."""
    console = stdout()
    shared: dict[tuple[str, str, str], list[Finding]] = {}
    for found in result.findings:
        shared.setdefault((found.severity, found.rule, found.fix), []).append(found)
    for (severity, _, fix), findings in shared.items():
        first, others = findings[0], len(findings) - 1
        nodes = f"{first.node} and {others} more" if others else first.node
        colour = "red" if severity == "refused" else "yellow"
        console.print(
            f"[{colour}]{severity}[/] [bold]{escape(nodes)}[/]: {escape(first.what)}",
            f"fix: {escape(fix)}",
            sep="\n        " if console.is_terminal else "; ",
        )
    console.print(f"{escape(result.model)}: {escape(_preflight_verdict(result))}")
    if result.unparsed:
        console.print(f"[dim]no TensorRT read it: {escape(result.unparsed)}[/]")


def _preflight_verdict(result: Preflight) -> str:
    reader = {
        True: f"{result.tensorrt} takes all {result.nodes} nodes",
        False: f"{result.tensorrt} does not take it",
        None: f"{result.nodes} nodes, judged by rules alone",
    }[result.parsed]
    count = len(result.findings)
    refused = sum(found.severity == "refused" for found in result.findings)
    if refused and result.parsed:
        reader = f"{result.tensorrt} parses all {result.nodes} nodes, and builds no engine of them"
    if not count:
        return f"{reader}, nothing to fix"
    return f"{reader}; {count} to fix" + (f", {refused} of them first" if refused else "")
