"""Sweeps: what a row holds, what a folder holds, and how one goes on.

No latency is asserted; whatever else a row says is the same whenever it is made.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynexport.bench.timing import Plan
from dynexport.cli import main
from dynexport.conversion import Recipe
from dynexport.errors import ImageError, InputError
from dynexport.precision import Precision
from dynexport.sweep import Rig, sweep_checkpoint
from dynexport.sweep.plan import name_precisions
from dynexport.sweep.rows import FILES, Row, Sweep
from dynexport.verify import verify_model

pytestmark = pytest.mark.slow

RIG = Rig(plan=Plan(rounds=1, round_seconds=0.01, warmup_seconds=0.0))


QUICK = ("--rounds", "1", "--round-seconds", "0.01")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "labelled.npz"
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 28, 28, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=generator.integers(0, 10, 20))
    return path


def told(row: Row) -> dict[str, Any]:
    """All of a row but how long things took."""
    found = dataclasses.asdict(row)
    found.pop("seconds")
    for name in ("latency_ms", "dense_ms", "speedup", "speedup_error", "unsettled"):
        (found["measured"] or {name: None}).pop(name)
    return found


def convert_steps(steps: list[str]) -> list[str]:
    return [step for step in steps if step.endswith(": convert")]


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, labelled: Path
) -> tuple[Sweep, list[str]]:
    """2 ratios x 2 precisions x 2 batch sizes, and what it told of."""
    steps: list[str] = []
    result = sweep_checkpoint(
        Recipe(tiny_checkpoint, images=labelled),
        "0.7:1.0:0.3",
        precisions=("fp32", "int8-dynamic"),
        batches=(4, 1),
        rig=RIG,
        output=tmp_path_factory.mktemp("sweep") / "out",
        keep_models=True,
        on_step=steps.append,
    )
    return result, steps


def test_a_row_a_configuration(swept: tuple[Sweep, list[str]]) -> None:
    result, steps = swept
    assert [row.key for row in result.rows] == [
        (ratio, precision, batch)
        for precision in ("fp32", "int8-dynamic")
        for batch in (1, 4)
        for ratio in (0.7, 1.0)
    ]
    assert result.passed
    assert result.resumed == 0
    assert len(convert_steps(steps)) == 4  # once a ratio and precision
    first, whole = result.rows[0].measured, result.rows[1].measured
    assert first is not None
    assert whole is not None
    assert first.keep_counts == (34, 24, 16)
    assert whole.keep_counts == (49, 49, 49)
    assert whole.agreement == 1.0  # all that the dense model computes, in float32
    assert whole.accuracy == result.dense_accuracy
    assert first.macs < first.macs_dense < whole.macs
    for row in result.rows:
        assert row.measured is not None
        assert row.measured.latency_ms > 0
        assert row.measured.dense_ms > 0
        assert row.measured.num_tokens == 49


def test_files_are_kept_for_each_batch_size_and_are_sound(swept: tuple[Sweep, list[str]]) -> None:
    result, _ = swept
    names = [Path(row.model).name for row in result.rows]
    assert names[0] == "tiny-0.7-fp32-b1.onnx"
    assert len(set(names)) == 8
    for row in result.rows:
        assert row.measured is not None
        assert Path(row.model).stat().st_size == row.measured.size_bytes
        verified = verify_model(row.model)
        assert verified.passed
        assert verified.batch_sizes == (row.batch,)


def test_accuracy_is_what_verify_measures(
    swept: tuple[Sweep, list[str]], tiny_checkpoint: Path, labelled: Path
) -> None:
    row = swept[0].rows[2]
    assert row.batch == 4
    assert row.measured is not None
    verified = verify_model(row.model, checkpoint=tiny_checkpoint, data=labelled)
    assert verified.accuracy is not None
    assert verified.accuracy.top1 == row.measured.accuracy


def test_what_the_folder_holds(swept: tuple[Sweep, list[str]]) -> None:
    result, _ = swept
    folder = Path(result.folder)
    assert {path.name for path in folder.iterdir()} == {*FILES, "dense.npz", "models"}
    assert {Path(file).name for file in result.files} == set(FILES)
    assert json.loads((folder / "sweep.json").read_text())["rows"] == [
        json.loads(json.dumps(dataclasses.asdict(row))) for row in result.rows
    ]
    with (folder / "sweep.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["ratio"], row["precision"], row["batch"]) for row in table] == [
        tuple(map(str, row.key)) for row in result.rows
    ]
    assert table[0]["keep_counts"] == "34 24 16"


def test_a_finished_sweep_repeats_nothing(
    swept: tuple[Sweep, list[str]], tiny_checkpoint: Path, labelled: Path
) -> None:
    result, _ = swept
    steps: list[str] = []
    again = sweep_checkpoint(
        Recipe(tiny_checkpoint, images=labelled),
        "0.7,1.0",
        precisions=("fp32", "int8-dynamic"),
        batches=(1, 4),
        rig=RIG,
        output=result.folder,
        on_step=steps.append,
    )
    assert convert_steps(steps) == []
    assert again.rows == result.rows
    assert (again.front, again.resumed) == (result.front, 8)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images": None}, r"images was [\w ]+\.npz \(\w{8}\) and is 64 synthetic images; choose"),
        ({"rig": Rig(threads=1, plan=RIG.plan)}, "threads was not given and is 1"),
        ({"rig": Rig()}, r"rounds was 1 and is 5; seconds a round was 0.01 and is 0.5"),
        ({"batches": (8,)}, "largest batch was 4 and is 8"),
        ({"align": 8}, "align was 1 and is 8"),
        ({"opset": 21}, "opset was not given and is 21"),
        (
            {"precisions": (Precision("int8-dynamic", target_agreement=0.5),)},
            "its int8-dynamic rows were made with other calibration images or settings",
        ),
    ],
)
def test_a_folder_of_another_sweep_is_refused(
    swept: tuple[Sweep, list[str]],
    tiny_checkpoint: Path,
    labelled: Path,
    changes: dict[str, Any],
    problem: str,
) -> None:
    folder = Path(swept[0].folder)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    given: dict[str, Any] = {"images": labelled, "rig": RIG, "batches": (4,), **changes}
    settled = {name: given.pop(name) for name in ("images", "align", "opset") if name in given}
    recipe = Recipe(tiny_checkpoint, **settled)
    with pytest.raises(InputError, match=problem):
        sweep_checkpoint(recipe, "0.7", output=folder, **given)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_what_fails_is_a_row_and_ends_nothing(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ratio that keeps no token; bf16, which ONNX Runtime does not compute on a CPU."""
    options = (
        *("sweep", str(tiny_checkpoint), "--ratios", "0.1,0.7", "--precision", "fp32,bf16"),
        *("--batch", "2", *QUICK, "-o", str(tmp_path / "out"), "--quiet"),
    )
    with pytest.raises(SystemExit) as left:
        main([*options, "--json"])
    assert left.value.code == 1
    told = capsys.readouterr()
    assert told.err == ""
    rows = json.loads(told.out)["rows"]
    assert [row["measured"] is not None for row in rows] == [False, True, False, False]
    assert "of stage 2 keeps none of 49 tokens" in rows[0]["failure"]
    assert "is bf16, which onnxruntime does not compute on a CPU" in rows[3]["failure"]
    for retried, more in ((0, ()), (3, ("--retry-failed",))):
        with pytest.raises(SystemExit) as left:
            main([*options, *more])
        assert left.value.code == 1
        shown = capsys.readouterr().out
        assert shown.count("failed:") == 3
        assert f"{4 - retried} of 4 were on disk" in shown


def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_checkpoint: Path, labelled: Path
) -> None:
    output = tmp_path / "out"
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, images=np.zeros((2, 28, 28, 3), dtype=np.uint8), labels=np.array([3, 10]))
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InputError, "unknown precision 'int9'", {"precisions": ("int9",)}),
        (InputError, "each once", {"precisions": ("fp32", "fp32")}),
        (InputError, "none were given", {"precisions": ()}),
        (InputError, "no batch size was given", {"batches": ()}),
        (InputError, "sizes are at least 1", {"batches": (0,)}),
        (ImageError, "does not exist", {"images": tmp_path / "none"}),
        (ImageError, "has label 10, but the model knows 10 classes", {"images": wrong}),
        (
            ImageError,
            "at least 1[67]",
            {"precisions": (Precision("int8", calibration_data=wrong),)},
        ),
    ]
    for kind, problem, options in cases:
        recipe = Recipe(tiny_checkpoint, images=options.pop("images", None))
        with pytest.raises(kind, match=problem):
            sweep_checkpoint(recipe, "0.7", rig=RIG, output=output, **options)
    for settled in ({"ratio": 0.7}, {"dense": True}, {"output": "a.onnx"}, {"edition": "auto"}):
        (name,) = settled
        with pytest.raises(InputError, match=rf"`{name}` .* chosen here: leave it out"):
            sweep_checkpoint(Recipe(tiny_checkpoint, **settled), "0.7", rig=RIG, output=output)
    with pytest.raises(InputError, match="not for the task features: leave `task` out"):
        sweep_checkpoint(Recipe(tiny_checkpoint, task="features"), "0.7", output=output)
    with pytest.raises(InputError, match="unknown backend 'onnx': did you mean"):
        Rig("onnx")
    with pytest.raises(InputError, match="0 threads were asked for"):
        Rig(threads=0)
    assert not output.exists()
    assert name_precisions(["fp16"])["fp16"] == Precision("fp16")


def test_without_matplotlib_a_sweep_runs_and_says_so(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = sweep_checkpoint(tiny_checkpoint, "0.7", rig=RIG, batches=(2,), output=tmp_path)
    assert result.passed
    assert "pip install 'matplotlib>=" in result.notes[0]
    assert not any("pareto" in path.name for path in tmp_path.iterdir())
    assert (result.labelled, result.dense_accuracy) == (False, None)
    assert result.images == "64 synthetic images"


def words_of(checkpoint: Path, data: Path, output: Path) -> list[str]:
    return [
        *("sweep", str(checkpoint), "--ratios", "0.6"),
        *("--precision", "fp32,int8-dynamic", "--batch", "1,3", "--data", str(data)),
        *(*QUICK, "-o", str(output)),
    ]


def start_sweep(checkpoint: Path, data: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dynexport", *words_of(checkpoint, data, output)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=output.parent
    )


def test_a_sweep_that_is_interrupted_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dynexport.sweep.sweep_checkpoint", interrupt)
    with pytest.raises(SystemExit) as left:
        main(["sweep", "ckpt.pth", "--ratios", "0.5"])
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (130, "")
    assert err == "stopped: the same command goes on with the rows that are finished\n"


def rows_in(output: Path) -> list[str]:
    """The whole rows of a sweep's folder."""
    path = output / "rows.jsonl"
    lines = path.read_text().splitlines(keepends=True)[1:] if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def kill_after(process: subprocess.Popen[str], output: Path, rows: int) -> None:
    """SIGKILL it as soon as there are so many rows."""
    until = time.monotonic() + 300
    while len(rows_in(output)) < rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_sweep_that_is_killed_goes_on_where_it_stopped(
    tmp_path: Path, tiny_checkpoint: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed twice, between the batch sizes of a file and in the middle of a conversion."""
    output = tmp_path / "out"
    kill_after(start_sweep(tiny_checkpoint, labelled, output), output, 1)
    first = rows_in(output)
    with (output / "rows.jsonl").open("a") as stream:
        stream.write('{"ratio": 0.6, "prec')  # as a kill may leave it
    kill_after(start_sweep(tiny_checkpoint, labelled, output), output, len(first) + 1)
    second = rows_in(output)
    assert second[: len(first)] == first
    capsys.readouterr()
    with pytest.raises(SystemExit) as left_well:
        main(words_of(tiny_checkpoint, labelled, output))
    shown, steps = capsys.readouterr()
    assert left_well.value.code == 0, steps
    finished = rows_in(output)
    assert finished[: len(second)] == second
    assert len(finished) == 4  # none twice
    left = {(row["ratio"], row["precision"]) for row in map(json.loads, finished[len(second) :])}
    assert len(convert_steps(steps.splitlines())) == len(left)
    assert f"{len(second)} of 4 were on disk" in shown
    assert not (output / ".making").exists()
    whole = tmp_path / "whole"
    with pytest.raises(SystemExit) as left_well:
        main(words_of(tiny_checkpoint, labelled, whole))
    assert left_well.value.code == 0
    tables = [
        [
            told(Row.read(row, folder))
            for row in json.loads((folder / "sweep.json").read_text())["rows"]
        ]
        for folder in (output, whole)
    ]
    assert tables[0] == tables[1]
