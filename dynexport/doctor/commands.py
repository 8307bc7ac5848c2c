"""Which commands can do their work with what is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynexport.doctor.machine import Runtime
from dynexport.doctor.packages import Package
from dynexport.runtimes import libraries


@dataclass(frozen=True)
class Command:
    """Whether a command can do its work: with which runtimes, or what it lacks."""

    name: str
    ready: bool
    runtimes: tuple[str, ...]
    lacks: tuple[str, ...]
    install: str | None


def judge_commands(packages: Sequence[Package], runtimes: Sequence[Runtime]) -> tuple[Command, ...]:
    """Every command, by the packages it needs all of and the runtimes it needs one of."""
    core = [package for package in packages if package.extra is None]
    convert = [*core, *(package for package in packages if package.extra == "convert")]
    report = [*core, *(package for package in packages if package.extra == "report")]
    comparing = {library.name for library in libraries() if library.compares}
    compare = [runtime for runtime in runtimes if runtime.name in comparing]
    run = [runtime for runtime in runtimes if runtime.runs]
    build = [runtime for runtime in runtimes if runtime.builds]
    return (
        _judge_command("convert", convert, compare),
        _judge_command("models", convert),
        _judge_command("verify", core, run),
        _judge_command("check", core),
        _judge_command("optimize", core, compare),
        _judge_command("build", core, build),
        _judge_command("bench", core, run),
        _judge_command("visualize", core, run),
        _judge_command("sweep", convert, compare),
        _judge_command("report", report, run),
        _judge_command("inspect", core),
    )


def _judge_command(name: str, needed: Sequence[Package], one_of: Sequence[Runtime] = ()) -> Command:
    """A command that needs all of ``needed``, and of ``one_of`` one."""
    lacks = [package for package in needed if package.state != "ready"]
    able = [runtime for runtime in one_of if runtime.state == "ready"]
    if not able:
        lacks += one_of[:1]
    targets = dict.fromkeys(p.install.removeprefix("pip install ") for p in lacks if p.install)
    return Command(
        name=name,
        ready=not lacks,
        runtimes=tuple(runtime.name for runtime in able),
        lacks=tuple(package.name for package in lacks),
        install=f"pip install {' '.join(targets)}" if targets else None,
    )
