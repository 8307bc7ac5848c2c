"""Runtimes behind one interface: open a model, run batches, close. One file a runtime.

A file of this folder says at its top what it is: a `Library` that is installed, and in ``RUNTIMES``
a `Runtime` for each way to use it (in ``LIBRARIES`` what has none). Nothing else lists them: names,
help, completion, `doctor`, versions and messages are read off the declarations. So a file imports
nothing slow until a session is opened. One that stands in ``dynexport/runtimes/`` elsewhere on the
search path counts as one of this folder (`dynexport.files.folders_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from dynexport.errors import InputError, unknown_choice
from dynexport.files import declared_in, folders_of
from dynexport.runtimes.library import Library, Machine, Use

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = [
    "NO_INPUTS",
    "Further",
    "GpuRunner",
    "LayerRunner",
    "Library",
    "Machine",
    "Runner",
    "Runtime",
    "Use",
    "find_runtime",
    "libraries",
    "open_runner",
    "require_runtime",
    "runtimes",
]

__path__ = folders_of(__name__, __path__)

Further: TypeAlias = "Mapping[str, NDArray[np.int64]]"
"""Inputs beside the images, by name, their first dimension the batch: a choice to be replayed
(`dynexport.graph.replay`)."""

NO_INPUTS: Further = MappingProxyType({})


class Runner(Protocol):
    """A model opened in a runtime, used as a context manager."""

    def run(
        self, images: NDArray[np.float32], further: Further = NO_INPUTS
    ) -> Mapping[str, NDArray[np.generic]]:
        """images float32 (B, C, H, W), and by name what else the graph takes -> outputs by name."""
        ...

    def __enter__(self) -> Runner: ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class GpuRunner(Protocol):
    """A runner that can time its work on the GPU apart from moving images and answers."""

    def measure(self) -> tuple[float, float]:
        """One run on the images of the last `run`: seconds of the GPU, and to enqueue it."""
        ...


@runtime_checkable
class LayerRunner(Protocol):
    """A runner that times its layers, when it was opened for that."""

    def layers(self) -> Mapping[str, float]:
        """Median milliseconds by layer, over all runs since it was opened, the last one asked."""
        ...


@dataclass(frozen=True)
class Runtime:
    """A runtime of ONNX files. Engines are opened by `dynexport.engine`.

    name      on the command line
    library   that must be installed
    open      opens a session: a file or its bytes, cores to use (None: its choice), whether to
              time layers; MissingExtraError where the library is not installed, ModelFileError
              where the model cannot be loaded
    require   MissingExtraError unless it is installed, as far as can be told without a model; by
              default the library's
    on_gpu    whether it computes on the GPU
    compiles  whether it makes a program of a graph as a whole: then a changed copy of the graph
              may round otherwise
    half      what a graph in half precision is there: "computed" as the file says; "emulated",
              where it has no such arithmetic: to compare, values are rounded to half between
              float32 operators, and bf16 is not timed; "float32": computed in that, whatever the
              file says
    """

    name: str
    library: Library
    open: Callable[[str | Path | bytes, int | None, bool], Runner]
    require: Callable[[], object] | None = None
    on_gpu: bool = False
    compiles: bool = False
    half: Literal["computed", "emulated", "float32"] = "computed"


@cache
def runtimes() -> Mapping[str, Runtime]:
    """Every runtime of ONNX files that is declared, by its name, in the order of their files."""
    declared: list[Runtime] = declared_in(__name__, __path__, "RUNTIMES")
    return MappingProxyType({runtime.name: runtime for runtime in declared})


@cache
def libraries() -> tuple[Library, ...]:
    """What can be installed of all runtimes, those of engines too, each once."""
    others: list[Library] = declared_in(__name__, __path__, "LIBRARIES")
    return tuple(dict.fromkeys([*(each.library for each in runtimes().values()), *others]))


def find_runtime(name: str) -> Runtime:
    """The runtime of a name; InputError if there is none, with the nearest name."""
    if name not in runtimes():
        raise InputError(unknown_choice("backend", name, runtimes()))
    return runtimes()[name]


def require_runtime(name: str) -> None:
    """MissingExtraError unless a runtime is installed.

    As far as can be told without opening a model.
    """
    runtime = find_runtime(name)
    (runtime.require or runtime.library.require)()


def open_runner(
    name: str,
    model: str | Path | bytes | ir.Model,
    threads: int | None = None,
    profile: bool = False,
) -> Runner:
    """Open an ONNX file, its bytes, or a graph in hand.

    MissingExtraError if the runtime is not installed.

    threads: cores to use, None for the runtime's choice; profile: time layers, see `LayerRunner`.
    """
    runtime = find_runtime(name)
    if isinstance(model, (str, Path, bytes)):
        return runtime.open(model, threads, profile)
    from dynexport.formats.onnx_file import as_source

    with as_source(model) as source:
        return runtime.open(source, threads, profile)
