"""What is installed, what of it works, and what is missing with the command that installs it.

Packages are imported as `dynexport.doctor.probes` does it, so that a broken one breaks nothing
here.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dynexport import __version__
from dynexport.doctor import probes
from dynexport.doctor.commands import Command, judge_commands
from dynexport.doctor.machine import Runtime, examine_library, judge_gpus, judge_library
from dynexport.doctor.packages import Package, attempt, examine_packages, read_all_needs
from dynexport.requirements import install_command
from dynexport.runtimes import Machine, libraries
from dynexport.runtimes.nvml import GpuFacts

__all__ = ["Command", "Diagnosis", "Package", "Runtime", "examine"]

UNTOLD = frozenset({"examples"})
"""Extras that no command needs."""


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found.

    gpus         all that the driver sees
    capability   compute capability of the one that engines run on; None: they run on none
    gpu_problem  then why
    problems     what keeps dynexport from its work: a package that everything needs, one that is
                 installed but broken or too old, or that no runtime works
    healthy      there is none of these
    """

    dynexport: str
    python: str
    executable: str
    platform: str
    packages: tuple[Package, ...]
    runtimes: tuple[Runtime, ...]
    gpus: tuple[GpuFacts, ...]
    capability: str | None
    gpu_problem: str | None
    commands: tuple[Command, ...]
    problems: tuple[str, ...]
    healthy: bool


def examine() -> Diagnosis:
    """Look at this installation and this machine; DynexportError if dynexport is not installed."""
    needs = read_all_needs()
    of_runtimes = {name for library in libraries() for name in library.packages}
    listed = [
        need
        for need in needs.values()
        if need.extra is None or (need.extra not in UNTOLD and need.name not in of_runtimes)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        nvml = pool.submit(attempt, probes.ask_nvml)
        cuda = pool.submit(attempt, probes.ask_cuda)
        examined = [pool.submit(examine_library, library, needs) for library in libraries()]
        packages = examine_packages(listed, pool)
    gpus, capability, gpu_problem = judge_gpus(nvml.result(), cuda.result())
    machine = Machine(bool(gpus), capability)
    runtimes = tuple(
        judge_library(library, *found.result(), machine)
        for library, found in zip(libraries(), examined, strict=True)
    )
    problems = tuple(_find_problems(packages, runtimes))
    return Diagnosis(
        dynexport=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        packages=packages,
        runtimes=runtimes,
        gpus=gpus,
        capability=capability,
        gpu_problem=gpu_problem,
        commands=judge_commands(packages, runtimes),
        problems=problems,
        healthy=not problems,
    )


def _find_problems(packages: Sequence[Package], runtimes: Sequence[Runtime]) -> Iterator[str]:
    needed = [package for package in packages if package.extra is None]
    for package in (*packages, *runtimes):
        unfit = package.state in ("broken", "outdated")
        if package.problem and (unfit or package in needed):
            yield package.problem + (f": run  {package.install}" if package.install else "")
    if not any(
        runtime.state == "ready" and (runtime.runs or runtime.builds) for runtime in runtimes
    ):
        command = install_command("onnxruntime", "cpu")
        yield f"no runtime works here: run  {command}  for ONNX Runtime"
