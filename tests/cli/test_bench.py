"""`dynexport bench` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made.command_line import Run, command_line, files_in, refused


def test_bench_times_the_file_and_its_dense_twin(run: Run, exported: Path) -> None:
    before = files_in(exported.parent)
    ran = run(
        *("bench", exported, "--no-pytorch", "--rounds", 2, "--round-seconds", 0.01),
        *("--batch", 5, "--threads", 1, "--json"),
    )
    assert ran.code == 0
    assert ran.errors == []
    (result,) = ran.json["batches"]
    assert result["batch"] == 5
    labels = [timing["label"] for timing in result["timings"]]
    assert labels == ["onnxruntime sparse", "onnxruntime dense"]
    assert all(len(timing["total"]["rounds"]) == 2 for timing in result["timings"])
    (gain,) = result["gains"]
    assert gain["efficiency"] == pytest.approx(gain["speedup"] / ran.json["ideal"])
    assert gain["efficiency_error"] == pytest.approx(gain["speedup_error"] / ran.json["ideal"])
    assert (gain["rounds"], gain["unsettled"][:11]) == (2, "not settled")
    assert (ran.json["threads"], ran.json["unsettled"]) == (1, gain["unsettled"])
    machine = ran.json["machine"]
    assert {"cpu", "flags", "cores", "platform", "python", "date"} <= set(machine)
    assert {"dynexport", "numpy", "onnx", "onnxruntime"} <= set(machine["versions"])
    assert files_in(exported.parent) == before


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--batch", "6"), "batch 6 does not fit this file, which takes 1:3:5: convert again"),
        (("--batch", "0"), "batch 0 does not fit this file"),
        (("--backend", "onnxruntme"), "unknown backend 'onnxruntme': did you mean 'onnxruntime'?"),
        (("--backend", "zzz"), "unknown backend 'zzz': choose from onnxruntime"),
        (("--rounds", "0"), "a measurement needs at least one round of more than 0 seconds"),
        (("--round-seconds", "0"), "a measurement needs at least one round of more than 0 seconds"),
        (
            ("--round-seconds", "inf"),
            "a measurement needs at least one round of more than 0 seconds",
        ),
        (
            ("--round-seconds", "-1"),
            "a measurement needs at least one round of more than 0 seconds",
        ),
        (
            ("--threads", "-1", "--no-pytorch", "--rounds", "1", "--round-seconds", "0.01"),
            "threads",
        ),
    ],
    ids=command_line,
)
def test_bench_refuses_in_one_sentence(
    run: Run, exported: Path, options: tuple[str, ...], problem: str
) -> None:
    refused(run("bench", exported, *options), problem)


def test_verify_refuses_an_unknown_backend(run: Run, exported: Path) -> None:
    problem = "unknown backend 'onyxruntime': did you mean 'onnxruntime'?"
    refused(run("verify", exported, "--backend", "onyxruntime"), problem)
