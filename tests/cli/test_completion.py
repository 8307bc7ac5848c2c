"""Completion by shells."""

from __future__ import annotations

import pytest
from made.terminals import run_piped

from dynexport.calibration import METHODS
from dynexport.cli import choices
from dynexport.graph.fuse import TARGETS
from dynexport.models import families, variants
from dynexport.precision import precisions
from dynexport.runtimes import runtimes
from dynexport.runtimes.tensorrt import EDITIONS
from dynexport.tasks import tasks

pytestmark = pytest.mark.slow


def completed(typed: str) -> list[str]:
    """What bash offers for the last word."""
    words = typed.split(" ")
    done = run_piped(
        _DYNEXPORT_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1)
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dynexport vi", ["visualize"]),
        ("dynexport convert --calibration-m", ["--calibration-method"]),
        ("dynexport convert --precision int8", ["int8", "int8-fp16", "int8-dynamic"]),
        ("dynexport convert --model swin", ["swin-t", "swin-s", "swin-b"]),
        ("dynexport convert --calibration-method mse,p", ["mse,percentile"]),
        ("dynexport convert --edition ", ["tensorrt", "tensorrt-rtx", "auto"]),
        ("dynexport convert --target ", ["any", "tensorrt"]),
        ("dynexport verify m.onnx --backend openvino", ["openvino", "openvino-bf16"]),
        ("dynexport bench --backend openvino,openvino", ["openvino,openvino-bf16"]),
        ("dynexport build m.onnx --edition t", ["tensorrt", "tensorrt-rtx"]),
        ("dynexport convert ", []),  # a file: bash's own
    ],
)
def test_a_shell_completes(typed: str, offered: list[str]) -> None:
    assert completed(typed) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_there_for_each_shell(shell: str) -> None:
    script = run_piped("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.returncode == 0
    assert f"_DYNEXPORT_COMPLETE=complete_{shell}" in script.stdout


def test_names_that_complete_are_those_that_exist() -> None:
    assert tuple(variants()) == choices.MODELS
    assert tuple(precisions()) == choices.PRECISIONS
    assert tuple(runtimes()) == choices.BACKENDS
    assert (*EDITIONS, "auto") == choices.EDITIONS
    assert set(METHODS) == set(choices.METHODS)
    assert TARGETS == choices.TARGETS
    offered = {task for family in families().values() for task in family.tasks}
    assert {task.name: task for task in offered} == tasks()
    assert tuple(tasks()) == choices.TASKS
