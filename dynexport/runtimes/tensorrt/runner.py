"""Running an engine: its own buffers, one stream, CUDA graphs; no PyTorch, no pycuda."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import DeviceError, InputError
from dynexport.files import save
from dynexport.formats.onnx_file import as_source
from dynexport.runtimes import NO_INPUTS, Further
from dynexport.runtimes.cuda import Cuda, Graph
from dynexport.runtimes.tensorrt.editions import Api, Edition
from dynexport.runtimes.tensorrt.parser import BuildLog, make_logger

if TYPE_CHECKING:
    import onnx_ir as ir
    import tensorrt


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine, and its buffers, large enough for any profile."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    host: NDArray[np.uint8]
    device: int

    def filled(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The pinned bytes that a value of this shape takes."""
        return self.host[: int(np.prod(shape)) * self.dtype.itemsize]

    def values(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The same as numbers."""
        return self.filled(shape).view(self.dtype).reshape(shape)


class EngineRunner:
    """An engine on the GPU; see `dynexport.runtimes.GpuRunner`.

    A batch size met for the first time is run as it is, then captured as a CUDA graph, where the
    engine lets itself be captured; TensorRT-RTX captures by itself.
    """

    def __init__(
        self,
        edition: Edition,
        plan: bytes,
        *,
        weights: ir.Model | None = None,
        host_code: bool = False,
        kernels: Path | None = None,
        profile: bool = False,
    ) -> None:
        """Deserialise ``plan``, which runs native code: check first where it comes from.

        weights    the graph whose weights go into an engine built without any
        host_code  run what a version-compatible engine brings for the CPU
        kernels    file that keeps what is compiled at the first run
        profile    time layers, without graphs

        DeviceError if there is no GPU, or it cannot run the engine.
        """
        self._edition, self._kernels = edition, kernels
        self._api, self._log = edition.load(), BuildLog()
        self._owned = ExitStack()
        self._graph: Graph | None = None
        self._capturable = not (edition.jit or profile)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._inputs: list[str] = []
        self._compiled: Any = None
        self._known = b""
        self._profiler: Any = None
        try:
            self._cuda = self._owned.enter_context(Cuda())
            self._engine = self._deserialise(plan, host_code)
            if weights is not None:
                self._fill(weights)
            self._context = self._open_context(profile)
            if profile:
                self._profiler = _attach_profiler(self._api, self._context)
            self._make_room()
        except BaseException:
            self.close()
            raise

    def _deserialise(self, plan: bytes, host_code: bool) -> tensorrt.ICudaEngine:
        """The engine; the runtime and its logger must live as long."""
        self._logger = make_logger(self._api, self._log)
        self._runtime = self._api.Runtime(self._logger)
        if host_code:
            self._runtime.engine_host_code_allowed = True
        engine: tensorrt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            name = self._edition.name
            raise DeviceError(f"{name} cannot open the engine: {self._log.complaint()}")
        return engine

    def _make_room(self) -> None:
        """Memory for every input and output at its largest, in whichever profile."""
        engine = self._engine
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if self._is_input(name)]
        self._profiles = [self._range(p) for p in range(engine.num_optimization_profiles)]
        largest = self._largest(names)
        self._tensors = {name: self._allocate(name, largest[name]) for name in names}

    def run(
        self, images: NDArray[np.float32], further: Further = NO_INPUTS
    ) -> dict[str, NDArray[Any]]:
        """Outputs by name of images and what else the engine takes, copied to the GPU and back.

        images float32 (B, C, H, W); the others by name.
        """
        if not self._inputs:
            raise DeviceError("the engine is closed: open it again")
        first = self._inputs[0]
        if self._shapes.get(first) != images.shape:
            self._take_shape(first, images.shape)
        fed: dict[str, NDArray[Any]] = {first: images, **further}
        for name, array in fed.items():
            given = self._tensors[name]
            given.values(array.shape)[:] = array
            self._cuda.upload(given.device, given.filled(array.shape))
        self._enqueue()
        outputs = {n: (t, self._shapes[n]) for n, t in self._tensors.items() if not t.is_input}
        for tensor, shape in outputs.values():
            self._cuda.download(tensor.filled(shape), tensor.device)
        self._cuda.wait()
        answers = {name: tensor.values(shape).copy() for name, (tensor, shape) in outputs.items()}
        if self._graph is None and self._capturable:
            self._capture()
        return answers

    def measure(self) -> tuple[float, float]:
        """Seconds of the GPU, and of the host to enqueue, for a run on what lies on the GPU."""
        enqueued = 0.0

        def work() -> None:
            nonlocal enqueued
            start = perf_counter()
            self._enqueue()
            enqueued = perf_counter() - start

        return self._cuda.milliseconds(work) / 1000.0, enqueued

    def layers(self) -> dict[str, float]:
        """Median milliseconds by layer, over all runs since it was opened with ``profile``."""
        times = self._profiler.times if self._profiler else {}
        return {layer: median(runs) for layer, runs in times.items()}

    def close(self) -> None:
        """Give back engine and memory, in the order they need; nothing can be run after that."""
        compiled = None if self._compiled is None else bytes(self._compiled.serialize())
        self._shapes, self._inputs = {}, []
        try:
            if self._graph is not None:
                self._graph.close()
            with suppress(DeviceError, AttributeError):  # it may not have come to a stream
                self._cuda.wait()
            for name in ("_graph", "_context", "_compiled", "_engine", "_runtime"):
                setattr(self, name, None)  # each holds on to the next
        finally:
            self._owned.close()
        if compiled is not None and self._kernels is not None and compiled != self._known:
            with suppress(InputError):  # what cannot be kept costs time at the next opening
                save(self._kernels, compiled)

    def __enter__(self) -> EngineRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_context(self, profile: bool) -> tensorrt.IExecutionContext:
        if not self._edition.jit:
            context = self._engine.create_execution_context()
        else:
            api: Any = self._api  # what follows is TensorRT-RTX's alone, so no stubs know it
            config: Any = self._engine.create_runtime_config()
            if not profile:
                config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            # the other strategies time a fallback kernel until the right one is compiled
            eager = api.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
            self._compiled = config.create_runtime_cache()
            if self._kernels is not None and self._kernels.is_file():
                self._known = self._kernels.read_bytes()
                self._compiled.deserialize(self._known)
            config.set_runtime_cache(self._compiled)
            context = self._engine.create_execution_context(config)
        if context is None:
            raise DeviceError(f"the GPU has no room for the engine: {self._log.complaint()}")
        return context

    def _fill(self, weights: ir.Model) -> None:
        refitter = self._api.Refitter(self._engine, self._logger)
        reader = self._api.OnnxParserRefitter(refitter, self._logger)
        with as_source(weights) as source:
            inside = isinstance(source, bytes)
            taken = (
                reader.refit_from_bytes(source) if inside else reader.refit_from_file(str(source))
            )
        if not (taken and refitter.refit_cuda_engine()):
            raise DeviceError(f"the engine does not take the weights: {self._log.complaint()}")

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._api.TensorIOMode.INPUT)

    def _range(self, profile: int) -> list[tuple[int, ...]]:
        """Smallest, optimal and largest shape of the images in a profile."""
        shapes = self._engine.get_tensor_profile_shape(self._inputs[0], profile)
        return [_sizes(shape) for shape in shapes]

    def _largest(self, names: list[str]) -> dict[str, int]:
        """Bytes that each input and output takes at most."""
        sizes = dict.fromkeys(names, 0)
        for profile, (_, _, largest) in enumerate(self._profiles):
            self._choose(profile, largest)
            for name in names:
                count = int(np.prod(_sizes(self._context.get_tensor_shape(name))))
                sizes[name] = max(sizes[name], count * self._dtype(name).itemsize)
        return sizes

    def _dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(self._api.nptype(self._engine.get_tensor_dtype(name)))

    def _allocate(self, name: str, size: int) -> Tensor:
        host, device = self._cuda.pinned_memory(size), self._cuda.device_memory(size)
        self._context.set_tensor_address(name, device)
        return Tensor(name, self._is_input(name), self._dtype(name), host, device)

    def _choose(self, profile: int, shape: tuple[int, ...]) -> None:
        if self._context.active_optimization_profile != profile:
            self._context.set_optimization_profile_async(profile, self._cuda.stream)
            self._cuda.wait()
        for name in self._inputs:
            size = shape
            if name != self._inputs[0]:  # of any other only the batch is open
                size = (shape[0], *_sizes(self._engine.get_tensor_shape(name))[1:])
            if not self._context.set_input_shape(name, self._api.Dims(list(size))):
                raise DeviceError(f"the engine refuses shape {list(size)}: {self._log.complaint()}")

    def _take_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set the context to another batch size, in the profile whose optimum is nearest."""
        fitting = [
            (abs(shape[0] - optimal[0]), profile)
            for profile, (smallest, optimal, largest) in enumerate(self._profiles)
            if smallest[0] <= shape[0] <= largest[0] and shape[1:] == optimal[1:]
        ]
        if not fitting:
            ranges = ", ".join(f"{list(low)} to {list(high)}" for low, _, high in self._profiles)
            raise InputError(
                f"images of shape {list(shape)} do not fit the engine, which takes {ranges}: "
                "build one with another `batch`"
            )
        if self._graph is not None:  # it knows the old shape alone
            self._graph.close()
            self._graph = None
        self._choose(min(fitting)[1], shape)
        self._shapes = {n: _sizes(self._context.get_tensor_shape(n)) for n in self._tensors}

    def _capture(self) -> None:
        """Make a graph of a run, where the engine lets itself be captured."""
        try:
            self._graph = self._cuda.capture(self._execute)
        except DeviceError:
            self._capturable = False

    def _enqueue(self) -> None:
        if self._graph is not None:
            self._graph.launch()
        else:
            self._execute()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise DeviceError(f"the engine did not run: {self._log.complaint()}")


def _sizes(shape: tensorrt.Dims) -> tuple[int, ...]:
    return tuple(shape[place] for place in range(len(shape)))


def _attach_profiler(api: Api, context: tensorrt.IExecutionContext) -> Any:
    class Profiler(api.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            api.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer: str, milliseconds: float) -> None:
            self.times.setdefault(layer, []).append(milliseconds)

    profiler = Profiler()
    context.profiler = profiler
    return profiler
