"""The two editions of TensorRT: what each is called, takes, and runs on.

No other file imports either.

``tensorrt`` (10.3 to 11.x) runs on GPU servers and Jetson, and builds on the GPU it builds for;
``tensorrt-rtx`` runs on RTX GPUs, and builds on any machine. Their Python interfaces agree but for
what `Edition` says.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from dynexport.errors import BuildError, InputError, MissingExtraError, unknown_choice
from dynexport.runtimes.library import Library, Machine, Use
from dynexport.runtimes.tensorrt.options import BuildOptions

if TYPE_CHECKING:
    import tensorrt


class Api(Protocol):
    """The part of TensorRT's Python interface that is used here."""

    __version__: str
    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    Dims: type[tensorrt.Dims]
    DeviceType: type[tensorrt.DeviceType]
    HardwareCompatibilityLevel: type[tensorrt.HardwareCompatibilityLevel]
    ILogger: type[tensorrt.ILogger]
    IProfiler: type[tensorrt.IProfiler]
    IProgressMonitor: type[tensorrt.IProgressMonitor]
    MemoryPoolType: type[tensorrt.MemoryPoolType]
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    OnnxParserRefitter: type[tensorrt.OnnxParserRefitter]
    ProfilingVerbosity: type[tensorrt.ProfilingVerbosity]
    Refitter: type[tensorrt.Refitter]
    Runtime: type[tensorrt.Runtime]
    TensorIOMode: type[tensorrt.TensorIOMode]
    nptype: Callable[[tensorrt.DataType], type]


@dataclass(frozen=True, kw_only=True)
class Edition(Library):
    """One of the two TensorRTs. Compute capabilities are written 8.6, or 12.0+ for all from there.

    takes      the options of `BuildOptions` that the other does not have
    targets    compute capabilities an engine runs on when none are asked for; empty: that of the
               GPU it is built on
    supported  compute capabilities it runs on at all
    jit        whether kernels are compiled at the first run; then it keeps them in a cache, and
               captures CUDA graphs by itself
    """

    takes: frozenset[str]
    targets: tuple[str, ...]
    supported: tuple[str, ...]
    jit: bool

    def load(self) -> Api:
        """Its Python module; MissingExtraError if it is not installed."""
        try:
            module: Any = importlib.import_module(self.module)
        except ModuleNotFoundError:
            module = None
        except Exception as error:  # its libraries are missing, or too new for this system
            raise BuildError(f"{self.name} is installed but does not import: {error}") from None
        if not hasattr(module, "Builder"):  # type stubs leave an empty package of its name
            raise MissingExtraError(self.name, self.extra)
        return cast(Api, module)

    def version(self) -> str | None:
        """Its version; None where it is not installed."""
        try:
            return self.load().__version__
        except MissingExtraError:
            return None

    def examine(self) -> tuple[str | None, tuple[str, ...]]:
        """Its version; BuildError where it is installed but does not import."""
        return self.version(), ()

    def judge(self, machine: Machine, providers: tuple[str, ...]) -> Use:
        """Whether it builds and runs engines on a machine, by its GPU."""
        runs = machine.capability is not None and self.runs_on(machine.capability)
        builds = runs or bool(self.targets)
        if runs:
            return Use(runs, builds, "builds and runs engines")
        why = "no usable NVIDIA GPU"
        if machine.capability is not None:
            why = f"it runs on compute capability {', '.join(self.supported)} alone"
        use = "builds engines, runs none" if builds else "of no use here"
        return Use(runs, builds, f"{use}: {why}")

    def runs_on(self, capability: str) -> bool:
        """Whether it supports GPUs of this compute capability at all."""
        return fits(capability, self.supported)

    def require_options(self, options: BuildOptions) -> None:
        """InputError if an option was asked for that only the other edition takes."""
        unset = BuildOptions()
        for other in EDITIONS.values():
            for option in sorted(other.takes - self.takes):
                if getattr(options, option) != getattr(unset, option):
                    raise InputError(
                        f"{self.name} has no `{option}`: leave it out, or choose `edition` "
                        f"{other.name}"
                    )


def fits(capability: str, targets: tuple[str, ...]) -> bool:
    """Whether a compute capability, as in 8.9, is one of ``targets``, as in 8.6 or 8.0+."""
    number = [int(part) for part in capability.split(".")]
    return any(
        number >= [int(part) for part in target[:-1].split(".")]
        if target.endswith("+")
        else capability == target
        for target in targets
    )


LIBRARIES = (
    Edition(
        name="tensorrt",
        module="tensorrt",
        extra="tensorrt",
        distributions=("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
        takes=frozenset({"version_compatible", "hardware_compatible", "dla_core", "timing_cache"}),
        targets=(),
        supported=("7.5+",),
        jit=False,
    ),
    Edition(
        name="tensorrt-rtx",
        module="tensorrt_rtx",
        extra="rtx",
        takes=frozenset({"compute_capabilities"}),
        targets=("8.0", "8.6", "8.9", "12.0+"),
        supported=("7.5", "8.0", "8.6", "8.9", "12.0+"),
        jit=True,
    ),
)
"""Targets and support: the support matrices of TensorRT 10 and 11, and TensorRT-RTX 1.x with its
chapter on CPU-only building."""

EDITIONS: Mapping[str, Edition] = MappingProxyType({edition.name: edition for edition in LIBRARIES})
"""By name on the command line."""


def find_edition(name: str) -> Edition:
    """The edition of a name, or with ``auto`` the first that is installed."""
    if name != "auto":
        if name not in EDITIONS:
            raise InputError(unknown_choice("TensorRT", name, (*EDITIONS, "auto")))
        return EDITIONS[name]
    for edition in EDITIONS.values():
        if edition.version() is not None:
            return edition
    raise MissingExtraError("TensorRT", "rtx")
