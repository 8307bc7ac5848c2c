"""`dynexport doctor`: what is installed, what works, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from dynexport.cli.console import print_json, progress, stdout
from dynexport.cli.options import Json, Quiet, Verbose

if TYPE_CHECKING:
    from dynexport.doctor import Command, Diagnosis, Package
    from dynexport.runtimes.nvml import GpuFacts


def doctor(json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Tell what is installed, what works, and what is missing; exit 1 where it cannot work."""
    from dynexport.doctor import examine

    with progress(quiet, verbose) as on_step:
        on_step("ask packages, runtimes and drivers")
        found = examine()
    (print_json if json else show_diagnosis)(found)
    if not found.healthy:
        raise typer.Exit(1)


def show_diagnosis(found: Diagnosis) -> None:
    """What `doctor` found, and what each command can do with it."""
    console = stdout()

    def show(title: str, rows: Iterable[tuple[str, str]]) -> None:
        console.print(f"[bold]{title}[/]")
        for name, told in rows:
            console.print(escape(f"  {name:<14} {told}".rstrip()))

    console.print(escape(f"dynexport {found.dynexport}, Python {found.python}: {found.executable}"))
    console.print(escape(found.platform))
    show("packages", ((p.name, _state(p)) for p in found.packages))
    show("runtimes", ((r.name, _state(r, r.note)) for r in found.runtimes))
    show("GPU", ((gpu.name or "of unknown name", _gpu_facts(gpu)) for gpu in found.gpus))
    if found.gpu_problem:
        console.print(
            escape(f"  {'not usable' if found.gpus else 'none found'}: {found.gpu_problem}")
        )
    show("commands", ((command.name, _readiness(command)) for command in found.commands))
    for install, names in _optional(found).items():
        console.print(escape(f"optional: {', '.join(names)}: {install}"))
    for problem in found.problems:
        console.print(f"[red]problem:[/] {escape(problem)}")
    if found.healthy:
        console.print("[green]healthy[/]")


def _optional(found: Diagnosis) -> dict[str, list[str]]:
    """What would bring more, beyond what a command lacks: command -> packages."""
    more: dict[str, list[str]] = {}
    for package in (*found.packages, *found.runtimes):
        if package.install and not any(package.name in c.lacks for c in found.commands):
            more.setdefault(package.install, []).append(package.name)
    return more


def _state(package: Package, note: str = "") -> str:
    if package.state == "missing":
        return "not installed"
    return f"{package.version or '?':<14} {package.problem or note}"


def _gpu_facts(gpu: GpuFacts) -> str:
    told = (
        ("compute capability", gpu.compute_capability),
        ("memory", gpu.memory_bytes and f"{gpu.memory_bytes / 2**30:.0f} GiB"),
        ("driver", gpu.driver),
        ("CUDA up to", gpu.cuda),
    )
    return ", ".join(f"{label} {value}" for label, value in told if value)


def _readiness(command: Command) -> str:
    if command.ready:
        return f"ready{' with ' if command.runtimes else ''}{', '.join(command.runtimes)}"
    return f"lacks {', '.join(command.lacks)}" + (f": {command.install}" if command.install else "")
