"""NVML: its masks in words, samples summed up, and GPUs that do not tell or are not there."""

from __future__ import annotations

import sys
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest

from dynexport.errors import DeviceError, DynexportError, MissingExtraError
from dynexport.runtimes.nvml import (
    CLOCK_REASONS,
    NOT_SLOWED,
    ClockLimits,
    GpuFacts,
    GpuSample,
    GpuWatch,
    Range,
    clock_reasons,
    gpu_facts,
    list_gpus,
    summarise,
)

NO_LIMITS = ClockLimits(None, None, None, None)
NOT_TOLD = GpuSample(None, None, None, None, None)


def has_gpu() -> bool:
    try:
        return bool(list_gpus())
    except DynexportError:
        return False


class NvmlError(Exception):
    """In place of pynvml's, which carries its number the same way."""

    def __init__(self, value: int = 3) -> None:
        super().__init__("Not Supported" if value == 3 else f"number {value}")
        self.value = value


class Nvml:
    """In place of pynvml: answers what it was given, and has nothing to say to all else."""

    NVMLError = NvmlError

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if "failure" in self.answers:
            raise NvmlError(self.answers["failure"])
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def query(*arguments: Any) -> Any:
            if name not in self.answers:
                raise NvmlError
            answer = self.answers[name]
            return answer(*arguments) if callable(answer) else answer

        return query


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(nvml: Nvml) -> Nvml:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return put


ORIN = {
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetHandleByIndex": "handle",
    "nvmlDeviceGetName": "Orin (nvgpu)",
    "nvmlSystemGetDriverVersion": "540.4.0",
    "nvmlSystemGetCudaDriverVersion_v2": 12060,
    "nvmlDeviceGetCudaComputeCapability": (8, 7),
}
"""What a Jetson Orin answers (JetPack 6): hardly anything."""

ADA = {
    **ORIN,
    "nvmlDeviceGetName": "NVIDIA RTX 4000 Ada",
    "nvmlDeviceGetUUID": "GPU-1",
    "nvmlDeviceGetHandleByUUID": "handle",
    "nvmlDeviceGetCudaComputeCapability": (8, 9),
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=20 * 2**30),
    "nvmlDeviceGetClockInfo": lambda gpu, kind: {1: 1500, 2: 9000}[kind],
    "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: {1: 2175, 2: 9001}[kind],
    "nvmlDeviceGetPowerUsage": 129_500,
    "nvmlDeviceGetTemperature": 71,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
}


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0, ()),
        (0x1, ("idle",)),
        (0x4, ("software power cap",)),
        (0x48, ("hardware slowdown", "hardware thermal slowdown")),
        (0x24, ("software power cap", "software thermal slowdown")),
        (0x400, ("reliability",)),
        (0x8000000000000002, ("application clocks", "reason 0x8000000000000000")),
    ],
)
def test_a_mask_is_read_bit_by_bit(bits: int, words: tuple[str, ...]) -> None:
    assert clock_reasons(bits) == words


def test_every_reason_of_the_package_has_a_word() -> None:
    pynvml = pytest.importorskip("pynvml")
    bits = {
        value
        for name, value in vars(pynvml).items()
        if name.startswith(("nvmlClocksEventReason", "nvmlClocksThrottleReason"))
        and not name.endswith(("All", "None"))
    }
    assert bits == set(CLOCK_REASONS)
    assert set(CLOCK_REASONS.values()) > NOT_SLOWED


def test_samples_are_summed_up() -> None:
    samples = [
        GpuSample(1980, 9000, 120.0, 60, ()),
        GpuSample(1500, 9000, 250.5, 84, ("software power cap", "software thermal slowdown")),
        GpuSample(1700, 9000, 240.0, 80, ("software power cap",)),
        GpuSample(300, 405, None, 61, ("idle",)),
    ]
    seen = summarise(samples, ClockLimits(1980, 9001, None, None))
    assert seen.samples == 4
    assert seen.sm_clock == Range(300, 1600, 1980)
    assert seen.memory_clock == Range(405, 9000, 9000)
    assert seen.power == Range(120.0, 240.0, 250.5)
    assert seen.temperature == Range(60, 70.5, 84)
    assert seen.reasons == {"software power cap": 2, "software thermal slowdown": 1, "idle": 1}
    assert seen.slowed == ("software power cap", "software thermal slowdown")
    assert seen.limits.max_sm == 1980


def test_clocks_that_held_are_told_from_clocks_that_were_not_seen() -> None:
    held = summarise([GpuSample(1980, None, None, None, ())], NO_LIMITS)
    assert (held.reasons, held.slowed) == ({}, ())
    for samples in ([], [NOT_TOLD, NOT_TOLD]):
        unseen = summarise(samples, NO_LIMITS)
        assert unseen.samples == len(samples)
        assert unseen.reasons is None
        assert unseen.sm_clock is unseen.memory_clock is unseen.power is unseen.temperature is None


def test_a_gpu_that_tells_all(use: Any) -> None:
    nvml = use(Nvml(**ADA))
    facts = GpuFacts("NVIDIA RTX 4000 Ada", "GPU-1", "8.9", 20 * 2**30, "540.4.0", "12.6")
    assert gpu_facts("GPU-1") == gpu_facts(0) == facts
    assert list_gpus() == [facts]
    with GpuWatch("GPU-1") as watch:
        assert watch.sample() == GpuSample(1500, 9000, 129.5, 71, ("software power cap",))
        nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0
        assert watch.sample().reasons == ()
        assert nvml.open == 1
    assert nvml.open == 0
    seen = watch.summary()
    assert (seen.samples, seen.reasons) == (2, {"software power cap": 1})
    assert seen.limits == ClockLimits(2175, 9001, None, None)


def test_samples_are_taken_while_others_work(use: Any) -> None:
    use(Nvml(**ORIN))
    with GpuWatch() as watch:
        with watch.sampling():
            sleep(0.25)
        taken = watch.summary().samples
        sleep(0.15)
    assert taken >= 2
    assert watch.summary().samples == taken


def test_a_gpu_that_tells_hardly_anything_is_no_error(use: Any) -> None:
    use(Nvml(**ORIN))
    assert gpu_facts() == GpuFacts("Orin (nvgpu)", None, "8.7", None, "540.4.0", "12.6")
    with GpuWatch() as watch:
        assert watch.sample() == NOT_TOLD
    assert watch.summary() == summarise([NOT_TOLD], NO_LIMITS)


def test_queries_are_found_by_their_older_and_newer_names(use: Any) -> None:
    use(
        Nvml(
            **ORIN,
            nvmlDeviceGetTemperatureV=50,
            nvmlDeviceGetCurrentClocksThrottleReasons=0x8,
        )
    )
    with GpuWatch() as watch:
        assert watch.sample() == GpuSample(None, None, None, 50, ("hardware slowdown",))


def test_queries_that_the_package_does_not_have_are_not_told(use: Any) -> None:
    class Older(Nvml):
        def __getattr__(self, name: str) -> Any:
            if name not in self.answers:
                raise AttributeError(name)
            return super().__getattr__(name)

    use(Older(**ORIN))
    with GpuWatch() as watch:
        assert watch.sample() == NOT_TOLD


@pytest.mark.parametrize("gpu", [7, "GPU-unknown"])
def test_a_gpu_that_is_not_there_is_an_error_and_leaves_nvml_closed(use: Any, gpu: Any) -> None:
    nvml = use(Nvml(nvmlDeviceGetCount=2))
    with pytest.raises(DeviceError, match=f"GPU {gpu} cannot be used: .* sees 2 GPUs"):
        GpuWatch(gpu)
    with pytest.raises(DeviceError, match="cannot be used"):
        gpu_facts(gpu)
    assert nvml.open == 0


def test_a_driver_that_sees_no_gpu(use: Any) -> None:
    use(Nvml(nvmlDeviceGetCount=0))
    with pytest.raises(DeviceError, match="the NVIDIA driver sees no GPU"):
        list_gpus()
    with pytest.raises(DeviceError, match=r"GPU 0 cannot be used: .* sees no GPU"):
        gpu_facts()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (4, "is not to be used by this user"),
        (9, "installed but not running"),
        (12, "no NVIDIA driver is installed; in a container"),
        (18, "restart this machine"),
        (999, "NVML cannot be used: number 999"),
    ],
)
def test_a_driver_that_does_not_answer(use: Any, number: int, words: str) -> None:
    nvml = use(Nvml(failure=number))
    for ask in (list_gpus, gpu_facts, GpuWatch):
        with pytest.raises(DeviceError, match=words):
            ask()
    assert nvml.open == 0


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtraError, match=r"nvidia-ml-py .* 'nvidia-ml-py>="):
        list_gpus()


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_here_there_is_no_driver_or_no_gpu() -> None:
    pytest.importorskip("pynvml")
    for ask in (list_gpus, gpu_facts, GpuWatch):
        with pytest.raises(DeviceError, match=r"no NVIDIA driver is installed|GPU"):
            ask()


@pytest.mark.skipif(not has_gpu(), reason="there is no GPU")
def test_here_there_is_a_gpu() -> None:
    facts = gpu_facts()
    assert facts == list_gpus()[0]
    assert facts.name
    assert facts.driver
    with GpuWatch(facts.uuid or 0) as watch:
        watch.sample()
    assert watch.summary().samples == 1
