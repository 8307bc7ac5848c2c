"""The two TensorRTs: what each is called, takes, and runs on. The only file that imports either.

``tensorrt`` (10.3 to 11.x) runs on GPU servers and Jetson, and builds on the GPU it builds for;
``tensorrt-rtx`` runs on RTX GPUs, and builds on any machine. Their Python interfaces agree but for
what `Flavour` says.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from dynexport.errors import BuildError, InputError, MissingExtraError, unknown_choice
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


@dataclass(frozen=True)
class Flavour:
    """One of the two TensorRTs. Compute capabilities are written 8.6, or 12.0+ for all from there.

    name, module, package, extra  on the command line, in Python, on the index, of dynexport
    takes      the options of `BuildOptions` that the other does not have
    targets    compute capabilities an engine runs on when none are asked for; empty: that of the
               GPU it is built on
    supported  compute capabilities it runs on at all
    jit        whether kernels are compiled at the first run; then it keeps them in a cache, and
               captures CUDA graphs by itself
    """

    name: str
    module: str
    package: str
    extra: str
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
            raise BuildError(f"{self.package} is installed but does not import: {error}") from None
        if not hasattr(module, "Builder"):  # type stubs leave an empty package of its name
            raise MissingExtraError(self.package, self.extra)
        return cast(Api, module)

    def version(self) -> str | None:
        """Its version; None where it is not installed."""
        try:
            return self.load().__version__
        except MissingExtraError:
            return None

    def runs_on(self, capability: str) -> bool:
        """Whether it supports GPUs of this compute capability at all."""
        return fits(capability, self.supported)

    def require_options(self, options: BuildOptions) -> None:
        """InputError if an option was asked for that only the other flavour takes."""
        unset = BuildOptions()
        for other in FLAVOURS.values():
            for option in sorted(other.takes - self.takes):
                if getattr(options, option) != getattr(unset, option):
                    flag = option.replace("capabilities", "capability").replace("_", "-")
                    raise InputError(
                        f"{self.name} has no --{flag}: leave it out, or choose --backend "
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


FLAVOURS: Mapping[str, Flavour] = MappingProxyType(
    {
        "tensorrt": Flavour(
            name="tensorrt",
            module="tensorrt",
            package="tensorrt",
            extra="tensorrt",
            takes=frozenset(
                {"version_compatible", "hardware_compatible", "dla_core", "timing_cache"}
            ),
            targets=(),
            supported=("7.5+",),
            jit=False,
        ),
        "tensorrt-rtx": Flavour(
            name="tensorrt-rtx",
            module="tensorrt_rtx",
            package="tensorrt-rtx",
            extra="rtx",
            takes=frozenset({"compute_capabilities"}),
            targets=("8.0", "8.6", "8.9", "12.0+"),
            supported=("7.5", "8.0", "8.6", "8.9", "12.0+"),
            jit=True,
        ),
    }
)
"""Name on the command line -> flavour. Targets and support: the support matrices of TensorRT 10
and 11, and TensorRT-RTX 1.x with its chapter on CPU-only building."""


def find_flavour(name: str) -> Flavour:
    """The flavour of a name, or with ``auto`` the first that is installed."""
    if name != "auto":
        if name not in FLAVOURS:
            raise InputError(unknown_choice("TensorRT", name, (*FLAVOURS, "auto")))
        return FLAVOURS[name]
    for flavour in FLAVOURS.values():
        if flavour.version() is not None:
            return flavour
    raise MissingExtraError("TensorRT", "rtx")
