"""`dynexport inspect`: what a checkpoint, an ONNX file or an engine is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from dynexport.cli.console import print_json, progress, stdout
from dynexport.cli.options import Json, Plugins, Quiet, Verbose, as_options
from dynexport.schedule import format_ratios


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
    if "undecided" in facts:
        facts["undecided"] = as_options(facts["undecided"])
    if "assumed" in facts:
        facts["assumed"] = [as_options(told) for told in facts["assumed"]]
    if facts.get("dynexport"):
        facts["dynexport"]["assumed"] = [as_options(t) for t in facts["dynexport"]["assumed"]]
    (print_json if json else show_facts)(facts)


def show_facts(facts: dict[str, Any]) -> None:
    """What `inspect` found, a line a fact; what is empty is left out."""
    console = stdout()
    for name, value in _filled(_reword(facts)).items():
        if isinstance(value, dict):
            console.print(f"[bold]{escape(name)}[/]")
            for key, item in value.items():
                console.print(escape(f"  {key:<20} {_plain(item)}"))
        else:
            console.print(escape(f"{name:<22} {_plain(value)}"))


def _reword(facts: dict[str, Any]) -> dict[str, Any]:
    """The same, with words for what only a program reads."""
    told = dict(facts)
    for name in {"inputs", "outputs"} & facts.keys():
        told[name] = {value: shape or "one number" for value, shape in facts[name].items()}
    known = facts.get("dynexport")
    if known is None:
        return told
    standard = {name: f"{known[name]} in standard operators" for name in ("nodes_dense", "nodes")}
    if facts.get("nodes") not in (None, known["nodes"]):
        told["nodes"] = f"{facts['nodes']} in the file, {standard['nodes']}"
    told["dynexport"] = {
        **known,
        **standard,
        "ratios": format_ratios(known["ratios"] or ()),
        "precision": _told_precision(known["precision"]),
    }
    return told


def _told_precision(report: dict[str, Any]) -> str:
    """The name, and what of a `PrecisionReport` is not as usual."""
    told = [report["name"]]
    if report.get("io", "fp32") != "fp32":
        told.append(f"inputs and outputs in {report['io']} precision")
    if report.get("images"):
        told.append(f"with {report['images']}")
    if report.get("single"):
        told.append(f"nodes left in float32: {len(report['single'])}")
    int8 = report.get("int8") or {}
    for name, what in (("ranges", "in int8"), ("raised", "raised back to float")):
        if int8.get(name):
            told.append(f"layers {what}: {len(int8[name])}")
    return ", ".join(told)


def _filled(facts: dict[str, Any]) -> dict[str, Any]:
    inner = {k: _filled(v) if isinstance(v, dict) else v for k, v in facts.items()}
    return {key: value for key, value in inner.items() if value not in (None, "", [], (), {})}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inner(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_inner, value))
    return _inner(value)


def _inner(value: Any) -> str:
    """One value of several: a list in brackets, a float without the noise of its last digits."""
    if isinstance(value, (list, tuple)):
        return f"({_plain(value)})"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
