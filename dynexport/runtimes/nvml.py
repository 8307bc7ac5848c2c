"""What NVML, the library under nvidia-smi, says of a GPU: its facts, and its state over time.

Neither CUDA nor PyTorch is asked. What a GPU does not tell is None: the integrated GPU of a Jetson
tells little more than its name, a driver that is older than a query refuses that query.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread
from types import MappingProxyType
from typing import Any

from dynexport.errors import DeviceError, MissingExtraError

CLOCK_REASONS: Mapping[int, str] = MappingProxyType(
    {
        0x001: "idle",
        0x002: "application clocks",
        0x004: "software power cap",
        0x008: "hardware slowdown",
        0x010: "sync boost",
        0x020: "software thermal slowdown",
        0x040: "hardware thermal slowdown",
        0x080: "hardware power brake",
        0x100: "display clocks",
        0x200: "board limit",
        0x400: "reliability",
    }
)
"""Why clocks are not at their highest, by bit (nvml.h, nvmlClocksEventReason...)."""

SAMPLE_SECONDS = 0.1
"""Between two samples: NVML's own averages are taken over about as long."""

NOT_SLOWED = frozenset({"idle", "application clocks", "display clocks", "sync boost"})
"""Reasons that are somebody's choice, or want of work; by the others the GPU defends itself."""


@dataclass(frozen=True)
class GpuFacts:
    """A GPU and its driver.

    uuid                as CUDA_VISIBLE_DEVICES takes it
    compute_capability  as in 8.9
    memory_bytes        None also where the GPU shares the host's memory
    driver              version of the NVIDIA driver
    cuda                the newest CUDA that the driver takes, as in 12.8
    """

    name: str | None
    uuid: str | None
    compute_capability: str | None
    memory_bytes: int | None
    driver: str | None
    cuda: str | None


@dataclass(frozen=True)
class ClockLimits:
    """Clocks in MHz: the highest there are, and those that were set for applications."""

    max_sm: int | None
    max_memory: int | None
    application_sm: int | None
    application_memory: int | None


@dataclass(frozen=True)
class GpuSample:
    """A GPU at one moment: clocks in MHz, power in W, temperature in degrees Celsius.

    reasons: why the clocks are not at their highest, of `CLOCK_REASONS`; empty for no reason.
    """

    sm_clock: int | None
    memory_clock: int | None
    power: float | None
    temperature: int | None
    reasons: tuple[str, ...] | None


@dataclass(frozen=True)
class Range:
    """Smallest, middle and largest of the samples."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class GpuConditions:
    """A GPU over some time; units as in `GpuSample`, None for what the GPU does not tell.

    samples  how many there are
    reasons  of `CLOCK_REASONS` -> number of samples in which it held
    slowed   those of them by which the GPU defends itself against heat, current or power
    """

    samples: int
    sm_clock: Range | None
    memory_clock: Range | None
    power: Range | None
    temperature: Range | None
    reasons: dict[str, int] | None
    slowed: tuple[str, ...]
    limits: ClockLimits


def list_gpus() -> list[GpuFacts]:
    """Every GPU, in the order of the PCI bus, whatever CUDA_VISIBLE_DEVICES says.

    MissingExtraError without nvidia-ml-py; DeviceError without a driver, or without a GPU.
    """
    with _nvml() as nvml:
        count = _tell(nvml, "nvmlDeviceGetCount") or 0
        if not count:
            raise DeviceError("the NVIDIA driver sees no GPU")
        return [_facts(nvml, _handle(nvml, index)) for index in range(count)]


def gpu_facts(gpu: int | str = 0) -> GpuFacts:
    """The GPU of an index, counted as by `list_gpus`, or of a UUID; raises as that does."""
    with _nvml() as nvml:
        return _facts(nvml, _handle(nvml, gpu))


class GpuWatch:
    """Looks at a GPU now and then, as in a benchmark, to tell whether its clocks held.

    ``gpu`` as in `gpu_facts`, whose errors opening raises. CUDA may count GPUs differently: where
    there are several, give the UUID. A sample is a handful of queries, and tells of work only if
    it is taken while the GPU has some, or right after.
    """

    def __init__(self, gpu: int | str = 0) -> None:
        self._samples: list[GpuSample] = []
        with ExitStack() as opening:
            self._nvml = opening.enter_context(_nvml())
            self._gpu = _handle(self._nvml, gpu)
            self._limits = _limits(self._nvml, self._gpu)
            self._owned = opening.pop_all()

    def __enter__(self) -> GpuWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    def sample(self) -> GpuSample:
        """The GPU now; also kept for `summary`."""
        self._samples.append(_sample(self._nvml, self._gpu))
        return self._samples[-1]

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Take samples in the background, while another process works the GPU."""
        stop = Event()

        def look() -> None:
            while not stop.is_set():
                self.sample()
                stop.wait(SAMPLE_SECONDS)

        thread = Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def summary(self) -> GpuConditions:
        """The GPU over all samples so far, also once the watch is closed."""
        return summarise(self._samples, self._limits)


def summarise(samples: Sequence[GpuSample], limits: ClockLimits) -> GpuConditions:
    """Ranges over the samples, and how often the clocks were held down by what."""
    told = [sample.reasons for sample in samples if sample.reasons is not None]
    reasons = dict(Counter(reason for reasons in told for reason in reasons))
    return GpuConditions(
        samples=len(samples),
        sm_clock=_range([sample.sm_clock for sample in samples]),
        memory_clock=_range([sample.memory_clock for sample in samples]),
        power=_range([sample.power for sample in samples]),
        temperature=_range([sample.temperature for sample in samples]),
        reasons=reasons if told else None,
        slowed=tuple(reason for reason in reasons if reason not in NOT_SLOWED),
        limits=limits,
    )


def clock_reasons(bits: int) -> tuple[str, ...]:
    """The set bits of NVML's mask in words; those that are newer than this list by number."""
    set_bits = (1 << place for place in range(bits.bit_length()) if bits >> place & 1)
    return tuple(CLOCK_REASONS.get(bit, f"reason {bit:#x}") for bit in set_bits)


def _range(values: Sequence[float | None]) -> Range | None:
    from statistics import median  # beside a declaration nothing slow is imported

    told = [float(value) for value in values if value is not None]
    return Range(min(told), median(told), max(told)) if told else None


@contextmanager
def _nvml() -> Iterator[Any]:
    """The module pynvml, initialised; NVML counts how often, and is left as it was found."""
    try:
        import pynvml
    except ImportError:
        raise MissingExtraError("nvidia-ml-py", "cuda") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise DeviceError(_OPENING.get(error.value, f"NVML cannot be used: {error}")) from None
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


_CONTAINER = "in a container, start it with the GPUs passed in (docker run --gpus all)"
_OPENING = {  # by nvmlReturn_t of nvml.h
    4: f"the NVIDIA driver is not to be used by this user; {_CONTAINER}",
    9: f"the NVIDIA driver is installed but not running, or sees no GPU; {_CONTAINER}",
    12: f"no NVIDIA driver is installed; {_CONTAINER}",
    18: "the NVIDIA driver was updated but the old one still runs: restart this machine",
}


def _handle(nvml: Any, gpu: int | str) -> Any:
    by_uuid = isinstance(gpu, str)
    find = nvml.nvmlDeviceGetHandleByUUID if by_uuid else nvml.nvmlDeviceGetHandleByIndex
    try:
        return find(gpu)
    except nvml.NVMLError as error:
        count = _tell(nvml, "nvmlDeviceGetCount")
        raise DeviceError(
            f"GPU {gpu} cannot be used: {error}; the NVIDIA driver sees {count or 'no'} "
            f"GPU{'s' if count and count > 1 else ''}"
        ) from None


def _tell(nvml: Any, query: str, *arguments: Any) -> Any:
    """The answer to a query; None where this GPU, driver or package has none to it.

    Also None at any other error: looking must never end what is looked at.
    """
    try:
        return getattr(nvml, query)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def _facts(nvml: Any, gpu: Any) -> GpuFacts:
    capability = _tell(nvml, "nvmlDeviceGetCudaComputeCapability", gpu)
    memory = _tell(nvml, "nvmlDeviceGetMemoryInfo", gpu)
    cuda = _tell(nvml, "nvmlSystemGetCudaDriverVersion_v2")
    return GpuFacts(
        name=_tell(nvml, "nvmlDeviceGetName", gpu),
        uuid=_tell(nvml, "nvmlDeviceGetUUID", gpu),
        compute_capability=capability and "{}.{}".format(*capability),
        memory_bytes=memory and int(memory.total),
        driver=_tell(nvml, "nvmlSystemGetDriverVersion"),
        cuda=cuda and f"{cuda // 1000}.{cuda % 1000 // 10}",
    )


_SM, _MEMORY = 1, 2  # nvmlClockType_t
_CORE = 0  # nvmlTemperatureSensors_t


def _limits(nvml: Any, gpu: Any) -> ClockLimits:
    return ClockLimits(
        max_sm=_tell(nvml, "nvmlDeviceGetMaxClockInfo", gpu, _SM),
        max_memory=_tell(nvml, "nvmlDeviceGetMaxClockInfo", gpu, _MEMORY),
        application_sm=_tell(nvml, "nvmlDeviceGetApplicationsClock", gpu, _SM),
        application_memory=_tell(nvml, "nvmlDeviceGetApplicationsClock", gpu, _MEMORY),
    )


def _sample(nvml: Any, gpu: Any) -> GpuSample:
    milliwatts = _tell(nvml, "nvmlDeviceGetPowerUsage", gpu)
    temperature = _tell(nvml, "nvmlDeviceGetTemperature", gpu, _CORE)
    if temperature is None:  # the older query goes with CUDA 14
        temperature = _tell(nvml, "nvmlDeviceGetTemperatureV", gpu, _CORE)
    bits = _tell(nvml, "nvmlDeviceGetCurrentClocksEventReasons", gpu)
    if bits is None:  # its name before driver 535
        bits = _tell(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", gpu)
    return GpuSample(
        sm_clock=_tell(nvml, "nvmlDeviceGetClockInfo", gpu, _SM),
        memory_clock=_tell(nvml, "nvmlDeviceGetClockInfo", gpu, _MEMORY),
        power=None if milliwatts is None else milliwatts / 1000.0,
        temperature=temperature,
        reasons=None if bits is None else clock_reasons(bits),
    )
