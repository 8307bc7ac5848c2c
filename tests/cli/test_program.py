"""The program itself, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made.command_line import Ran, Run, change_weight, command_line, files_in, refused


def run_process(*arguments: object, cwd: Path) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "dynexport", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("convrt",), "No such command 'convrt'"),
        (("convert",), "Missing argument 'CKPT'"),
        (("convert", "x.pth", "--rato", "0.7"), "--rato"),
        (("convert", "x.pth", "--ratio", "much"), "--ratio"),
        (("convert", "x.pth", "--opset", "new"), "--opset"),
        (("verify",), "Missing argument"),
        (("bench", "x.onnx", "--rounds", "some"), "--rounds"),
        (("inspect",), "Missing argument 'FILE'"),
    ],
    ids=command_line,
)
def test_wrong_usage_exits_with_2_and_is_told_on_stderr(
    run: Run, arguments: tuple[str, ...], problem: str
) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert problem in ran.err
    assert "Traceback" not in ran.err


def test_version_and_help_go_to_stdout(run: Run) -> None:
    ran = run("--version")
    assert (ran.code, ran.out.split()[0], ran.err) == (0, "dynexport", "")
    for command in ("convert", "verify", "bench", "inspect"):
        ran = run(command, "-h")
        assert (ran.code, ran.err) == (0, "")
        assert "--json" in ran.out


def test_a_process_verifies_and_prints_json_alone(exported: Path) -> None:
    ran = run_process("verify", exported.name, "--json", cwd=exported.parent)
    assert ran.code == 0
    assert ran.json["failures"] == []
    assert ran.errors == []


def test_a_process_exits_with_1_where_the_model_differs(exported: Path) -> None:
    change_weight(exported, "head.bias", lambda bias: bias + np.float32(1))
    ran = run_process("verify", exported, cwd=exported.parent)
    assert ran.code == 1
    assert "NOT verified" in ran.out
    assert ran.errors == []


def test_a_process_refuses_a_file_that_would_run_code(tmp_path: Path) -> None:
    content = b"cos\nmkdir\n(S'marker'\ntR."  # a pickle that calls os.mkdir("marker")
    (tmp_path / "c.pth").write_bytes(content)
    refused(run_process("inspect", "c.pth", "--json", cwd=tmp_path), "c.pth ")
    assert list(files_in(tmp_path)) == ["c.pth"]
