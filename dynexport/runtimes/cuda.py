"""What engines need of CUDA, through cuda-python's driver interface: memory, a stream, graphs.

The driver interface and not the runtime's, because a package works with older drivers than its own
CUDA, too (of cuda-python 13, timing alone needs a driver of CUDA 12.8; Jetsons with JetPack 6 take
12.9). Everything made belongs to a `Cuda` session, which gives it back
when it closes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynexport.errors import DeviceError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Device:
    """A GPU: its name, its compute capability as in 8.9, and its UUID as NVML has it."""

    name: str
    capability: str
    uuid: str


def current_device() -> Device:
    """The GPU that engines run on, the first one visible; DeviceError if there is none."""
    driver = _load_driver()
    handle = _first_device(driver)
    (name,) = _call(driver, driver.cuDeviceGetName, 256, handle)
    kinds = driver.CUdevice_attribute
    major, minor = (
        _call(driver, driver.cuDeviceGetAttribute, kind, handle)[0]
        for kind in (
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    (identity,) = _call(driver, driver.cuDeviceGetUuid, handle)
    from uuid import UUID  # beside a declaration nothing slow is imported

    uuid = UUID(bytes=bytes(identity.bytes))
    return Device(name.split(b"\0")[0].decode(), f"{major}.{minor}", f"GPU-{uuid}")


class Cuda:
    """A stream on the first GPU, and memory that lives as long as it does; for one thread."""

    def __init__(self) -> None:
        self._driver = _load_driver()
        self._owned = ExitStack()
        try:
            device = _first_device(self._driver)
            (context,) = self._make("cuDevicePrimaryCtxRetain", device)
            self._free_with("cuDevicePrimaryCtxRelease", device)
            self._make("cuCtxSetCurrent", context)
            flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
            (self._stream,) = self._make("cuStreamCreate", flags)
            self._free_with("cuStreamDestroy", self._stream)
            self._events = [self._event(), self._event()]
        except BaseException:
            self._owned.close()
            raise

    def __enter__(self) -> Cuda:
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    def device_memory(self, size: int) -> int:
        """Address of ``size`` bytes on the GPU."""
        (pointer,) = self._make("cuMemAlloc", max(size, 1))
        self._free_with("cuMemFree", pointer)
        return int(pointer)

    def pinned_memory(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes of the host that the GPU copies from and to without a detour."""
        import ctypes

        import numpy as np

        (pointer,) = self._make("cuMemHostAlloc", max(size, 1), 0)
        self._free_with("cuMemFreeHost", pointer)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(pointer)))

    def upload(self, target: int, source: NDArray[np.uint8]) -> None:
        """Begin to copy pinned bytes to the GPU."""
        self._make("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, self._stream)

    def download(self, target: NDArray[np.uint8], source: int) -> None:
        """Begin to copy bytes of the GPU to pinned memory."""
        self._make("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, self._stream)

    def wait(self) -> None:
        """Until all that was begun is done."""
        self._make("cuStreamSynchronize", self._stream)

    def milliseconds(self, work: Callable[[], None]) -> float:
        """How long the GPU takes over what ``work`` puts on the stream."""
        begin, end = self._events
        self._make("cuEventRecord", begin, self._stream)
        work()
        self._make("cuEventRecord", end, self._stream)
        self._make("cuEventSynchronize", end)
        (elapsed,) = self._make("cuEventElapsedTime", begin, end)
        return float(elapsed)

    def capture(self, work: Callable[[], None]) -> Graph:
        """A CUDA graph of what ``work`` puts on the stream; close it when it is of no more use."""
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._make("cuStreamBeginCapture", self._stream, mode)
        with ExitStack() as captured:
            try:
                work()
            finally:  # a stream left capturing refuses everything else
                (graph,) = self._make("cuStreamEndCapture", self._stream)
                captured.callback(self._driver.cuGraphDestroy, graph)
            (launchable,) = self._make("cuGraphInstantiate", graph, 0)
        return Graph(self._driver, launchable, self._stream)

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses."""
        return int(self._make("cuMemGetInfo")[0])

    def _event(self) -> Any:
        (event,) = self._make("cuEventCreate", 0)
        self._free_with("cuEventDestroy", event)
        return event

    def _make(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        return _call(self._driver, getattr(self._driver, function), *arguments)

    def _free_with(self, function: str, handle: Any) -> None:
        self._owned.callback(getattr(self._driver, function), handle)


class Graph:
    """A captured CUDA graph, to be launched any number of times on the stream it is from."""

    def __init__(self, driver: Any, graph: Any, stream: Any) -> None:
        self._driver, self._graph, self._stream = driver, graph, stream

    def launch(self) -> None:
        _call(self._driver, self._driver.cuGraphLaunch, self._graph, self._stream)

    def close(self) -> None:
        self._driver.cuGraphExecDestroy(self._graph)


def _load_driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        raise MissingExtraError("cuda-python", "cuda") from None
    return driver


def _first_device(driver: Any) -> Any:
    try:
        _call(driver, driver.cuInit, 0)
        (count,) = _call(driver, driver.cuDeviceGetCount)
    except RuntimeError:  # the package looks for the driver's library at the first call
        raise DeviceError(f"no NVIDIA driver is installed: {_NEEDED}") from None
    if not count:
        raise DeviceError(f"there is no NVIDIA GPU here: {_NEEDED}")
    return _call(driver, driver.cuDeviceGet, 0)[0]


_NEEDED = (
    "engines run on an NVIDIA GPU only (`check` needs none, nor does `build` for tensorrt-rtx)"
)


def _call(driver: Any, function: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """The results of a driver call; DeviceError with CUDA's own words if it failed."""
    status, *results = function(*arguments)
    if status == driver.CUresult.CUDA_SUCCESS:
        return tuple(results)
    _, words = driver.cuGetErrorString(status)
    text = words.decode() if words else f"error {int(status)}"
    if status == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        text = f"there is no NVIDIA GPU here: {_NEEDED}"
    raise DeviceError(f"CUDA refused {getattr(function, '__name__', 'a call')}: {text}")
