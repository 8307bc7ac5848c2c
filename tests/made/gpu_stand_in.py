"""A stand-in for a GPU: CUDA's driver calls on host memory, and an engine that adds one.

The tests run where there is no GPU. `make gpu-check` runs the real thing; this holds the runner's
own logic to account: what it allocates it frees, copies go where they should, shapes and profiles
are chosen as documented.
"""

from __future__ import annotations

import ctypes
import enum
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np


class Status(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class Driver:
    """The calls of ``cuda.bindings.driver`` that `dynexport.runtimes.cuda` makes."""

    CUresult = Status
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=8,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=9,
    )

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.live: Counter[str] = Counter()
        self.capturing: list[Any] | None = None
        self.launches = 0
        self.captures = True
        self._memory: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        made, freed = (
            {
                "cuStreamCreate": "stream",
                "cuEventCreate": "event",
                "cuDevicePrimaryCtxRetain": "context",
            },
            {
                "cuStreamDestroy": "stream",
                "cuEventDestroy": "event",
                "cuDevicePrimaryCtxRelease": "context",
                "cuGraphDestroy": "captured",
                "cuGraphExecDestroy": "graph",
            },
        )
        if name in made:
            return lambda *_: self._count(made[name], 1)
        if name in freed:
            return lambda *_: self._count(freed[name], -1)
        if name in ("cuInit", "cuCtxSetCurrent", "cuStreamSynchronize", "cuEventRecord"):
            return lambda *_: (Status.CUDA_SUCCESS,)
        if name == "cuEventSynchronize":
            return lambda *_: (Status.CUDA_SUCCESS,)
        raise AttributeError(name)

    def _count(self, kind: str, change: int) -> tuple[Any, ...]:
        self.live[kind] += change
        return (Status.CUDA_SUCCESS, 1) if change > 0 else (Status.CUDA_SUCCESS,)

    def cuDeviceGetCount(self) -> tuple[Any, ...]:
        return Status.CUDA_SUCCESS, self.devices

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        return Status.CUDA_SUCCESS, ordinal

    def cuDeviceGetName(self, length: int, device: int) -> tuple[Any, ...]:
        return Status.CUDA_SUCCESS, b"Stand-in\0\0"

    def cuDeviceGetAttribute(self, kind: int, device: int) -> tuple[Any, ...]:
        return Status.CUDA_SUCCESS, kind

    def cuDeviceGetUuid(self, device: int) -> tuple[Any, ...]:
        return Status.CUDA_SUCCESS, SimpleNamespace(bytes=bytes(range(16)))

    def cuGetErrorString(self, status: Status) -> tuple[Any, ...]:
        return Status.CUDA_SUCCESS, status.name.lower().replace("_", " ").encode()

    def cuMemAlloc(self, size: int) -> tuple[Any, ...]:
        if size > 1 << 20:
            return Status.CUDA_ERROR_OUT_OF_MEMORY, None
        return self._allocate("device", size)

    def cuMemHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._allocate("host", size)

    def _allocate(self, kind: str, size: int) -> tuple[Any, ...]:
        buffer = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(buffer)
        self._memory[address] = buffer
        self.live[kind] += 1
        return Status.CUDA_SUCCESS, address

    def cuMemFree(self, address: int) -> tuple[Any, ...]:
        del self._memory[address]
        return self._count("device", -1)

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:
        del self._memory[address]
        return self._count("host", -1)

    def cuMemcpyHtoDAsync(self, to: int, source: int, size: int, stream: int) -> tuple[Any, ...]:
        ctypes.memmove(to, source, size)
        return (Status.CUDA_SUCCESS,)

    cuMemcpyDtoHAsync = cuMemcpyHtoDAsync

    def cuEventElapsedTime(self, begin: int, end: int) -> tuple[Any, ...]:
        return Status.CUDA_SUCCESS, 2.5

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        self.capturing = []
        return (Status.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        if not self.captures:
            self.capturing = None
            return Status.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        work, self.capturing = self.capturing, None
        self.live["captured"] += 1
        return Status.CUDA_SUCCESS, work

    def cuGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        self.live["graph"] += 1
        return Status.CUDA_SUCCESS, graph

    def cuGraphLaunch(self, graph: Any, stream: int) -> tuple[Any, ...]:
        self.launches += 1
        for work in graph:
            work()
        return (Status.CUDA_SUCCESS,)


class Engine:
    """Takes images (B, 1, 2, 2), gives their sums plus one as logits (B, 1); profiles as given.

    With ``rows`` it takes a choice as well, replay_0 int64 (B, rows, 1), whose sum is added.
    """

    def __init__(self, profiles: list[tuple[int, int, int]], rows: int = 0) -> None:
        self.profiles = profiles
        self.rows = rows
        self.names = ("images", "replay_0", "logits") if rows else ("images", "logits")
        self.num_optimization_profiles = len(profiles)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, place: int) -> str:
        return self.names[place]

    def get_tensor_mode(self, name: str) -> str:
        return "output" if name == "logits" else "input"

    def get_tensor_dtype(self, name: str) -> str:
        return "int64" if name == "replay_0" else "float"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {"images": (-1, 1, 2, 2), "replay_0": (-1, self.rows, 1), "logits": (-1, 1)}[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, 1, 2, 2) for size in self.profiles[profile]]

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    """Runs an `Engine` on addresses, as TensorRT's execution context does."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.active_optimization_profile = 0
        self.batch = 0
        self.replayed = 0
        self.addresses: dict[str, int] = {}
        self.chosen: list[tuple[int, int]] = []
        self.profiler: Any = None

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name: str, shape: list[int]) -> bool:
        low, _, high = self.engine.profiles[self.active_optimization_profile]
        if name == "replay_0":
            self.replayed = shape[0]
            return shape == [self.batch, self.engine.rows, 1]
        self.batch = shape[0]
        self.chosen.append((self.active_optimization_profile, shape[0]))
        return low <= shape[0] <= high

    def get_tensor_shape(self, name: str) -> list[int]:
        return [self.batch, *self.engine.get_tensor_shape(name)[1:]]

    def execute_async_v3(self, stream: int) -> bool:
        driver = DRIVERS[-1]
        if driver.capturing is not None:
            driver.capturing.append(self._add)
        else:
            self._add()
        if self.profiler is not None:
            self.profiler.report_layer_time("sum", 0.5)
        return True

    def _add(self) -> None:
        images = self._array("images", (self.batch, 1, 2, 2))
        sums = images.sum(axis=(2, 3)) + 1
        if self.engine.rows:
            assert self.replayed == self.batch
            sums += self._array("replay_0", (self.batch, self.engine.rows, 1)).sum(axis=1)
        self._array("logits", (self.batch, 1))[:] = sums

    def _array(self, name: str, shape: tuple[int, ...]) -> Any:
        count = int(np.prod(shape))
        kind = ctypes.c_int64 if name == "replay_0" else ctypes.c_float
        memory = (kind * count).from_address(self.addresses[name])
        return np.ctypeslib.as_array(memory).reshape(shape)


DRIVERS: list[Driver] = []
"""The one in use is the last."""


class Plain:
    """A base class of TensorRT's that does nothing."""


def api(engine: Engine | None) -> Any:
    """The part of TensorRT that the runner uses; without an engine deserialising fails."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if engine is None:
                self.logger.log(1, "Error Code 1: Serialization (magic tag does not match)")
            return engine

    class Logger(Plain):
        ERROR = 1

    return SimpleNamespace(
        Runtime=Runtime,
        ILogger=Logger,
        IProfiler=Plain,
        TensorIOMode=SimpleNamespace(INPUT="input"),
        nptype=lambda dtype: np.int64 if dtype == "int64" else np.float32,
        Dims=list,
        __version__="10.3.0",
    )
