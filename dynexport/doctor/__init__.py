"""What is installed, what of it works, and what is missing with the command that installs it.

Packages are imported as `dynexport.doctor.probes` does it, so that a broken one breaks nothing
here. PyTorch and onnxscript, which take seconds to import, are looked up instead.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from dynexport import __version__
from dynexport.doctor import probes
from dynexport.doctor.probes import UNKNOWN, ProbeError, version_of
from dynexport.errors import DynexportError
from dynexport.runtimes.nvml import GpuFacts

if TYPE_CHECKING:
    from dynexport.runtimes.tensorrt import Flavour

LOOKED_UP = frozenset({"torch", "onnxscript"})
"""Packages that are not imported to see whether they work."""

LISTED = frozenset({None, "convert", "cuda", "report", "plots"})
"""Extras whose packages are told; those of runtimes are told as runtimes."""

T = TypeVar("T")
State = Literal["ready", "missing", "outdated", "broken"]


@dataclass(frozen=True)
class Package:
    """A package that dynexport uses.

    name     on the package index
    extra    of dynexport, that brings it; None: nothing works without it
    version  None where it is not installed, or does not tell
    state    ready; missing; outdated: older than dynexport takes; broken: it fails to import
    problem  a sentence, unless ready
    install  the command that brings it, where it is missing or outdated
    """

    name: str
    extra: str | None
    version: str | None
    state: State
    problem: str | None
    install: str | None


@dataclass(frozen=True)
class Runtime(Package):
    """ONNX Runtime, OpenVINO or a TensorRT.

    providers     execution providers that ONNX Runtime was built with
    runs, builds  whether, once ready, it runs models, and builds engines, on this machine
    note          that in words, and why not more
    """

    providers: tuple[str, ...]
    runs: bool
    builds: bool
    note: str


@dataclass(frozen=True)
class Command:
    """Whether a command can do its work: with which runtimes, or what it lacks."""

    name: str
    ready: bool
    runtimes: tuple[str, ...]
    lacks: tuple[str, ...]
    install: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found.

    gpus         all that the driver sees
    capability   compute capability of the one that engines run on; None: they run on none
    gpu_problem  then why
    problems     what keeps dynexport from its work: a package that everything needs, one that is
                 installed but broken, or that no runtime works
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
    needs = read_needs()
    listed = [need for need in needs.values() if need.extra in LISTED]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        nvml = pool.submit(_try, probes.ask_nvml)
        cuda = pool.submit(_try, probes.ask_cuda)
        onnxruntime = pool.submit(_examine_onnxruntime, needs["onnxruntime"])
        openvino = pool.submit(_try, probes.import_package, "openvino", "openvino")
        packages = _examine_packages(listed, pool)
        flavours = _list_flavours(packages)
        found = list(pool.map(lambda flavour: _examine_flavour(flavour, needs), flavours))
    gpus, capability, gpu_problem = judge_gpus(nvml.result(), cuda.result())
    runtimes = (
        _judge_onnxruntime(*onnxruntime.result(), bool(gpus)),
        _judge_openvino(_judge(needs["openvino"], openvino.result())),
        *map(judge_flavour, found, flavours, repeat(capability)),
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
        commands=_judge_commands(packages, runtimes),
        problems=problems,
        healthy=not problems,
    )


def _find_problems(packages: Sequence[Package], runtimes: Sequence[Runtime]) -> Iterator[str]:
    for package in (*packages, *runtimes):
        if package.problem and (package.extra is None or package.state == "broken"):
            yield package.problem + (f": run  {package.install}" if package.install else "")
    if not any(
        runtime.state == "ready" and (runtime.runs or runtime.builds) for runtime in runtimes
    ):
        yield "no runtime works here: run  pip install 'dynexport[cpu]'  for ONNX Runtime"


@dataclass(frozen=True)
class Need:
    """A requirement of dynexport: ``name>=floor``, of an extra, or of all of it."""

    name: str
    floor: str
    extra: str | None

    @property
    def module(self) -> str:
        """What is imported of it."""
        odd = {"pillow": "PIL", "cuda-python": "cuda.bindings.driver", "nvidia-ml-py": "pynvml"}
        return odd.get(self.name, self.name.replace("-", "_"))

    @property
    def command(self) -> str:
        """What installs it."""
        what = f"{self.name}>={self.floor}" if self.extra is None else f"dynexport[{self.extra}]"
        return f"pip install '{what}'"


_REQUIREMENT = re.compile(
    r"""(?P<name>[\w.-]+) \s* >= \s* (?P<floor>[\w.]+)
        (\s* ; \s* extra \s* == \s* ["'](?P<extra>\w+)["'])?""",
    re.VERBOSE,
)


def read_needs() -> dict[str, Need]:
    """What the installed dynexport requires, by name; its extras name one another as well."""
    try:
        lines = importlib.metadata.requires("dynexport") or ()
    except importlib.metadata.PackageNotFoundError:
        raise DynexportError(
            "dynexport runs from a folder but is not installed: run  pip install FOLDER"
        ) from None
    matches = filter(None, map(_REQUIREMENT.fullmatch, lines))
    return {found["name"]: Need(found["name"], found["floor"], found["extra"]) for found in matches}


def _try(question: Callable[..., T], *arguments: str) -> T | DynexportError:
    """The answer of `dynexport.doctor.probes`, or what went wrong."""
    try:
        return probes.ask(question, *arguments)
    except DynexportError as error:
        return error


def _judge(need: Need, found: str | DynexportError | None) -> Package:
    """A package, by its version, by what went wrong at importing it, or None: not installed."""
    state: State
    if isinstance(found, DynexportError):
        state, version, problem = "broken", version_of(need.name), str(found)
        if isinstance(found, ProbeError):  # others tell it in a sentence of their own
            problem = f"{need.name} is installed but does not import: {found}"
    elif found is None:
        state, version, problem = "missing", None, f"{need.name} is not installed"
    elif is_older(found, need.floor):
        state, version = "outdated", found
        problem = f"{need.name} {found} is too old: {need.floor} or later is needed"
    else:
        return Package(need.name, need.extra, found, "ready", None, None)
    command = None if state == "broken" else need.command
    return Package(need.name, need.extra, version, state, problem, command)


def is_older(version: str, floor: str) -> bool:
    """By the leading numbers alone: 2.9rc1 counts as 2.9, and what has none as new enough."""
    found, least = (re.match(r"\d+(\.\d+)*", text) for text in (version, floor))
    if not found or not least:
        return False
    return [int(n) for n in found[0].split(".")] < [int(n) for n in least[0].split(".")]


def _examine_packages(needs: Sequence[Need], pool: Executor) -> tuple[Package, ...]:
    tried = [need for need in needs if need.name not in LOOKED_UP]
    named = [text for need in tried for text in (need.name, need.module)]
    together = _try(probes.import_packages, *named)
    if isinstance(together, DynexportError):  # then each alone, to see which it is
        alone = pool.map(lambda need: _try(probes.import_package, need.name, need.module), tried)
        found = dict(zip(tried, alone, strict=True))
    else:
        found = dict(zip(tried, together, strict=True))
    return tuple(_judge(need, found[need] if need in found else _look_up(need)) for need in needs)


def _look_up(need: Need) -> str | None:
    spec = importlib.util.find_spec(need.module)
    there = spec is not None and spec.origin is not None  # else a folder that has its name
    return version_of(need.name) or UNKNOWN if there else None


def _examine_onnxruntime(need: Need) -> tuple[Package, tuple[str, ...]]:
    answer = _try(probes.import_onnxruntime)
    if isinstance(answer, DynexportError):
        return _judge(need, answer), ()
    version, providers = answer
    return _judge(need, version), tuple(providers)


def _judge_onnxruntime(package: Package, providers: tuple[str, ...], gpu: bool) -> Runtime:
    names = [name.removesuffix("ExecutionProvider") for name in providers if "Azure" not in name]
    note = f"runs models on {', '.join(names)}"
    if gpu and "CUDA" not in names:
        note += (
            "; to use the GPU too, replace it: pip uninstall onnxruntime, then "
            "pip install 'dynexport[gpu]'"
        )
    return Runtime(**vars(package), providers=providers, runs=True, builds=False, note=note)


def _judge_openvino(package: Package) -> Runtime:
    note = "runs models on the CPU, with --backend openvino"
    return Runtime(**vars(package), providers=(), runs=True, builds=False, note=note)


def _list_flavours(packages: Sequence[Package]) -> tuple[Flavour, ...]:
    """Both TensorRTs; none if what they need too does not work, and would be taken for theirs."""
    if any(package.state != "ready" for package in packages if package.extra is None):
        return ()
    from dynexport.runtimes.tensorrt import FLAVOURS

    return tuple(FLAVOURS.values())


def _examine_flavour(flavour: Flavour, needs: Mapping[str, Need]) -> Package:
    need = needs.get(flavour.package) or Need(flavour.package, "0", flavour.extra)
    return _judge(need, _try(probes.import_tensorrt, flavour.name))


def judge_flavour(package: Package, flavour: Flavour, capability: str | None) -> Runtime:
    runs = capability is not None and flavour.runs_on(capability)
    builds = runs or bool(flavour.targets)
    note = "builds and runs engines"
    if not runs:
        why = "no usable NVIDIA GPU"
        if capability is not None:
            why = f"it runs on compute capability {', '.join(flavour.supported)} alone"
        note = f"{'builds engines, runs none' if builds else 'of no use here'}: {why}"
    return Runtime(**vars(package), providers=(), runs=runs, builds=builds, note=note)


def judge_gpus(
    seen: list[dict[str, Any]] | DynexportError, device: Sequence[str] | DynexportError
) -> tuple[tuple[GpuFacts, ...], str | None, str | None]:
    """All GPUs, the compute capability that CUDA offers, and why it offers none."""
    gpus = () if isinstance(seen, DynexportError) else tuple(GpuFacts(**gpu) for gpu in seen)
    if isinstance(device, DynexportError):
        return gpus, None, str(device if gpus else seen)
    name, capability = device
    return gpus or (GpuFacts(name, None, capability, None, None, None),), capability, None


def _judge_commands(
    packages: Sequence[Package], runtimes: Sequence[Runtime]
) -> tuple[Command, ...]:
    core = [package for package in packages if package.extra is None]
    convert = [*core, *(package for package in packages if package.extra == "convert")]
    report = [*core, *(package for package in packages if package.extra == "report")]
    run = [runtime for runtime in runtimes if runtime.runs]
    build = [runtime for runtime in runtimes if runtime.builds]
    return (
        _judge_command("convert", convert, runtimes[:1]),  # ONNX Runtime verifies what it wrote
        _judge_command("models", convert),
        _judge_command("verify", core, run),
        _judge_command("check", core),
        _judge_command("optimize", core, runtimes[:1]),  # compares outputs in it
        _judge_command("build", core, build),
        _judge_command("bench", core, run),
        _judge_command("visualize", core, run),
        _judge_command("sweep", convert, runtimes[:1]),  # converts
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
