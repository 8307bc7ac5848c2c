"""The runtimes of a machine and its GPUs: what there is, and what each is good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynexport.doctor import probes
from dynexport.doctor.packages import Package, attempt, judge_package
from dynexport.errors import DynexportError
from dynexport.requirements import Need
from dynexport.runtimes import Library, Machine
from dynexport.runtimes.nvml import GpuFacts


@dataclass(frozen=True)
class Runtime(Package):
    """A library that runs models or builds engines, as its file in `dynexport.runtimes` has it.

    providers     what it says it runs models on
    runs, builds  whether, once ready, it runs models, and builds engines, on this machine
    note          that in words, and why not more
    """

    providers: tuple[str, ...]
    runs: bool
    builds: bool
    note: str


def examine_library(library: Library, needs: Mapping[str, Need]) -> tuple[Package, tuple[str, ...]]:
    """A runtime's library as a package, and what it says it runs models on."""
    need = needs.get(library.name) or Need(library.name, "0", library.extra)
    answer = attempt(probes.examine_library, library.name)
    if isinstance(answer, DynexportError):
        return judge_package(need, answer), ()
    version, providers = answer
    return judge_package(need, version), tuple(providers)


def judge_library(
    library: Library, package: Package, providers: tuple[str, ...], machine: Machine
) -> Runtime:
    """What `examine_library` found, and what it is good for on a machine."""
    use = library.judge(machine, providers)
    return Runtime(**vars(package), providers=providers, **vars(use))


def judge_gpus(
    seen: list[dict[str, Any]] | DynexportError, device: Sequence[str] | DynexportError
) -> tuple[tuple[GpuFacts, ...], str | None, str | None]:
    """All GPUs, the compute capability that CUDA offers, and why it offers none."""
    gpus = () if isinstance(seen, DynexportError) else tuple(GpuFacts(**gpu) for gpu in seen)
    if isinstance(device, DynexportError):
        return gpus, None, str(device if gpus else seen)
    name, capability = device
    return gpus or (GpuFacts(name, None, capability, None, None, None),), capability, None
