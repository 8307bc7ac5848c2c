"""Running engines: the runner's own logic on a stand-in for the GPU, and what it says without."""

from __future__ import annotations

import ctypes.util
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from made.gpu_stand_in import DRIVERS, Driver, Engine, api

from dynexport.errors import DeviceError, InputError, MissingExtraError
from dynexport.runtimes import GpuRunner, LayerRunner, cuda
from dynexport.runtimes.tensorrt import EDITIONS
from dynexport.runtimes.tensorrt.runner import EngineRunner


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    stand_in = Driver()
    DRIVERS.append(stand_in)
    monkeypatch.setattr(cuda, "_load_driver", lambda: stand_in)
    yield stand_in
    DRIVERS.pop()


def open_stand_in(engine: Engine | None, profile: bool = False) -> EngineRunner:
    class Edition:
        jit, name = False, "tensorrt"

        @staticmethod
        def load() -> Any:
            return api(engine)

    return EngineRunner(Edition(), b"plan", profile=profile)  # type: ignore[arg-type]


def images(batch: int) -> Any:
    return np.random.default_rng(batch).normal(size=(batch, 1, 2, 2)).astype(np.float32)


def test_runs_batches_inside_its_profiles(driver: Driver) -> None:
    with open_stand_in(Engine([(1, 2, 4), (5, 8, 8)])) as runner:
        assert isinstance(runner, GpuRunner)
        assert isinstance(runner, LayerRunner)
        for batch in (1, 4, 4, 5, 8, 2, 8):
            given = images(batch)
            answer = runner.run(given)["logits"]
            assert np.allclose(answer, given.sum(axis=(2, 3)) + 1)
        assert runner._context.chosen[-4:] == [(1, 5), (1, 8), (0, 2), (1, 8)]  # type: ignore[attr-defined]
        with pytest.raises(InputError, match=r"\[9, 1, 2, 2\] do not fit the engine, which takes"):
            runner.run(images(9))
        with pytest.raises(InputError, match="do not fit the engine"):
            runner.run(np.zeros((4, 3, 2, 2), np.float32))


def test_a_choice_is_fed_beside_the_images(driver: Driver) -> None:
    """At every batch size, and from the buffers that a captured graph reads."""
    with open_stand_in(Engine([(1, 2, 4), (5, 8, 8)], rows=3)) as runner:
        for batch in (1, 4, 4, 4, 8, 2):
            given, rows = images(batch), np.random.default_rng(batch).integers(0, 9, (batch, 3, 1))
            answer = runner.run(given, {"replay_0": rows})["logits"]
            assert np.allclose(answer, given.sum(axis=(2, 3)) + 1 + rows.sum(axis=1))
    assert driver.launches == 2
    assert set(driver.live.values()) == {0}


def test_answers_are_the_callers_own(driver: Driver) -> None:
    """A later run must not write into what an earlier one returned."""
    with open_stand_in(Engine([(1, 2, 4)])) as runner:
        first = runner.run(images(4))["logits"]
        before = first.copy()
        runner.run(images(4) + 5)
        assert np.array_equal(first, before)


def test_a_repeated_batch_size_is_a_graph(driver: Driver) -> None:
    with open_stand_in(Engine([(1, 2, 4)])) as runner:
        runner.run(images(2))
        assert driver.launches == 0
        runner.run(images(2))
        runner.run(images(2))
        assert driver.launches == 2
        runner.run(images(3))
        assert driver.launches == 2  # shapes changed: the old graph is of no use
        assert driver.live["graph"] == 1
        assert runner.measure()[0] == 0.0025
        assert driver.launches == 3


def test_an_engine_that_cannot_be_captured_runs_as_it_is(driver: Driver) -> None:
    driver.captures = False
    with open_stand_in(Engine([(1, 2, 4)])) as runner:
        for _ in range(3):
            given = images(2)
            assert np.allclose(runner.run(given)["logits"], given.sum(axis=(2, 3)) + 1)
    assert driver.launches == 0
    assert set(driver.live.values()) == {0}


def test_a_closed_engine_is_refused(driver: Driver) -> None:
    with open_stand_in(Engine([(1, 2, 4)])) as runner:
        runner.run(images(2))
    with pytest.raises(DeviceError, match="the engine is closed: open it again"):
        runner.run(images(2))
    runner.close()
    assert set(driver.live.values()) == {0}


def test_layers_are_timed_without_graphs(driver: Driver) -> None:
    with open_stand_in(Engine([(1, 2, 4)]), profile=True) as runner:
        for _ in range(3):
            runner.run(images(2))
        assert driver.launches == 0
        assert runner.layers() == {"sum": 0.5}


def test_nothing_leaks_in_a_thousand_rounds(driver: Driver) -> None:
    for _ in range(1000):
        with open_stand_in(Engine([(1, 2, 4), (5, 8, 8)])) as runner:
            runner.run(images(2))
            runner.run(images(2))
    assert set(driver.live.values()) == {0}
    assert not driver._memory


@pytest.mark.parametrize("fault", ["deserialise", "memory", "run"])
def test_nothing_leaks_where_it_fails(driver: Driver, fault: str) -> None:
    engine = None if fault == "deserialise" else Engine([(1, 2, 4)])
    if fault == "memory":
        engine = Engine([(1, 2, 1 << 17)])
    reasons = {
        "deserialise": "cannot open the engine: Serialization: magic tag does not match",
        "memory": "CUDA refused cuMemAlloc: cuda error out of memory",
        "run": "do not fit",
    }

    def open_and_run() -> None:
        with open_stand_in(engine) as runner:
            runner.run(images(64))

    with pytest.raises((DeviceError, InputError), match=reasons[fault]):
        open_and_run()
    assert set(driver.live.values()) == {0}


def test_the_gpu_is_named(driver: Driver) -> None:
    assert cuda.current_device() == cuda.Device(
        "Stand-in", "8.9", "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
    )


def test_no_gpu(driver: Driver) -> None:
    driver.devices = 0
    with pytest.raises(DeviceError, match="there is no NVIDIA GPU here: engines run on"):
        cuda.current_device()


def test_no_driver_is_one_sentence() -> None:
    """For real, where there is none."""
    if ctypes.util.find_library("cuda"):
        pytest.skip("there is a driver")
    with pytest.raises(DeviceError, match="no NVIDIA driver is installed: engines run on an"):
        cuda.current_device()


def test_no_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cuda-python>="):
        cuda.current_device()


def test_a_flavour_that_is_not_installed() -> None:
    """Its type stubs, an empty package of its name, are not it."""
    absent = dataclasses.replace(EDITIONS["tensorrt"], module="no_such_tensorrt")
    assert absent.version() is None
    stubs = dataclasses.replace(EDITIONS["tensorrt"], module="dynexport")
    with pytest.raises(MissingExtraError, match=r"tensorrt is not installed.*'tensorrt>="):
        stubs.load()
