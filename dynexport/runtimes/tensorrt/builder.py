"""ONNX to an engine: the options of a build, its profiles, and stopping it."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynexport.errors import BuildError, DeviceError, InputError
from dynexport.files import cache_folder, require_writable, save
from dynexport.progress import OnProgress
from dynexport.runtimes import cuda
from dynexport.runtimes.tensorrt.editions import Api, Edition
from dynexport.runtimes.tensorrt.options import BuildOptions
from dynexport.runtimes.tensorrt.parser import Layer, Network

if TYPE_CHECKING:
    import tensorrt

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, optimal and largest shape of an input."""


@dataclass(frozen=True)
class EnginePlan:
    """A built engine.

    content       the serialised engine
    version       of the TensorRT that built it
    gpu           it was built on; None where it was built for any of ``capabilities``
    capabilities  compute capabilities that run it, as in 8.6 or 12.0+
    layers        what it is made of; none where the builder did not say
    """

    content: bytes
    version: str
    gpu: str | None
    capabilities: tuple[str, ...]
    layers: tuple[Layer, ...]


def build(
    edition: Edition,
    model: bytes | Path,
    profiles: tuple[Mapping[str, Shapes], ...],
    options: BuildOptions,
    on_progress: OnProgress = lambda phase, done, steps: None,
) -> EnginePlan:
    """Build an engine of an ONNX file.

    ``profiles``: the shapes of each input that has a range of them, by name; none where every
    shape is fixed. InputError for an option the edition does not take; BuildError names the nodes
    that the parser or the builder refuses; an interrupt stops the build.
    """
    gpu = require_buildable(edition, options)
    api = edition.load()
    timings = _timing_cache(edition, options, api.__version__, gpu)
    with _signals_held() as noted:
        network = Network(api, model)
        if network.problems:
            raise BuildError(f"{edition.name} refuses {'; '.join(map(str, network.problems))}")
        config = network.builder.create_builder_config()
        _configure(api, config, options)
        _add_profiles(api, network, config, profiles)
        if timings is not None:
            _use_timings(config, timings)
        config.progress_monitor = _monitor(api, on_progress, noted)
        content = network.builder.build_serialized_network(network.definition, config)
    if content is None:
        raise BuildError(f"{edition.name} cannot build an engine: {network.log.complaint()}")
    if timings is not None:
        with suppress(InputError):  # what cannot be kept costs time, not the engine
            save(timings, bytes(config.get_timing_cache().serialize()))
    built_on = None if edition.targets else gpu
    return EnginePlan(
        content=bytes(content),
        version=api.__version__,
        gpu=built_on.name if built_on else None,
        capabilities=_capabilities(edition, options, built_on),
        layers=network.log.layers(),
    )


def require_buildable(edition: Edition, options: BuildOptions) -> cuda.Device | None:
    """The GPU that the build needs; None where it needs none.

    Raises what keeps it from being built here: an option, a package, or that there is no GPU.
    """
    edition.require_options(options)
    edition.load()
    if edition.targets and not (options.refit or options.strip_weights):
        return None
    try:
        return cuda.current_device()
    except DeviceError as error:
        if edition.targets:  # as TensorRT-RTX 1.7 does, of the smallest graph
            raise DeviceError(
                f"{edition.name} makes engines whose weights can be exchanged on a GPU only, and "
                f"{error}"
            ) from None
        raise DeviceError(
            f"{edition.name} builds on the GPU that will run it, and {error}"
        ) from None


def _capabilities(
    edition: Edition, options: BuildOptions, gpu: cuda.Device | None
) -> tuple[str, ...]:
    """The compute capabilities that run an engine."""
    if gpu is not None:
        return ("8.0+",) if options.hardware_compatible else (gpu.capability,)
    return options.compute_capabilities or edition.targets


def _add_profiles(
    api: Api,
    network: Network,
    config: tensorrt.IBuilderConfig,
    profiles: tuple[Mapping[str, Shapes], ...],
) -> None:
    for shapes in profiles:
        profile = network.builder.create_optimization_profile()
        for name, (smallest, optimal, largest) in shapes.items():
            ends = (api.Dims(list(shape)) for shape in (smallest, optimal, largest))
            profile.set_shape(name, *ends)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"TensorRT refuses the shapes {dict(shapes)}: give another `batch`")


@contextmanager
def _signals_held() -> Iterator[list[int]]:
    """Signals to stop, noted here and raised at the end: TensorRT calls back so often that nearly
    every one would be raised in a callback, and there it is swallowed."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    heeded = [kind for kind in kinds if signal.getsignal(kind) is not signal.SIG_IGN]
    before = {kind: signal.signal(kind, lambda number, _: noted.append(number)) for kind in heeded}
    try:
        yield noted
    finally:
        for kind, handler in before.items():
            signal.signal(kind, signal.SIG_DFL if handler is None else handler)
        if noted:
            signal.raise_signal(noted[0])


def _configure(api: Api, config: tensorrt.IBuilderConfig, options: BuildOptions) -> None:
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED  # names only: no cost at run time
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if not options.tf32:  # on by default, and then float32 answers are not PyTorch's
        config.clear_flag(api.BuilderFlag.TF32)
    for asked, flag in (
        (options.version_compatible, "VERSION_COMPATIBLE"),
        (options.refit, "REFIT"),
        (options.strip_weights, "STRIP_PLAN"),
        (options.strip_weights and not options.refit, "REFIT_IDENTICAL"),
    ):
        if asked:
            config.set_flag(getattr(api.BuilderFlag, flag))
    if options.hardware_compatible:
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.dla_core is not None:
        config.default_device_type = api.DeviceType.DLA
        config.DLA_core = options.dla_core
        config.set_flag(api.BuilderFlag.GPU_FALLBACK)
    if options.compute_capabilities:
        _set_capabilities(api, config, options.compute_capabilities)


def _set_capabilities(api: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    """Which GPUs to build for; these calls are TensorRT-RTX's alone, so no stubs know them."""
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in api.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    config.num_compute_capabilities = len(capabilities)
    for place, capability in enumerate(capabilities):
        if capability not in known:
            raise InputError(
                f"compute capability {capability} is not one TensorRT-RTX {api.__version__} builds "
                f"for: choose from {', '.join(sorted(known, key=float))}"
            )
        config.set_compute_capability(known[capability], place)


def _timing_cache(
    edition: Edition, options: BuildOptions, version: str, gpu: cuda.Device | None
) -> Path | None:
    """The file of measurements this build reads and adds to, if it does."""
    if "timing_cache" not in edition.takes or options.timing_cache == "none" or gpu is None:
        return None
    if options.timing_cache is not None:
        require_writable(Path(options.timing_cache))
        return Path(options.timing_cache)
    key = re.sub(r"[^\w.]+", "-", f"{edition.name}-{version}-{gpu.name}")
    return cache_folder() / f"{key}.timing"


def _use_timings(config: tensorrt.IBuilderConfig, file: Path) -> None:
    """Start from the measurements of earlier builds, where the file holds any that fit."""
    known = file.read_bytes() if file.is_file() else b""
    cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)


def _monitor(api: Api, on_progress: OnProgress, noted: list[int]) -> Any:
    class Monitor(api.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Passes progress on, and stops the build at a signal that was noted."""

        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            on_progress(phase, 0, steps)

        def phase_finish(self, phase: str) -> None:
            steps = self._steps.get(phase, 0)
            on_progress(phase, steps, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            on_progress(phase, step + 1, self._steps.get(phase, 0))
            return not noted

    return Monitor()
