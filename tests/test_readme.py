"""What the README shows works as shown."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from foreign_models import export_foreign

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_example_runs(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    shutil.copy(tiny_checkpoint, tmp_path / "ckpt.pth")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "ckpt-0.7.onnx").exists()


def test_the_commands_shown_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    commands = re.findall(r"^\$ dynexport (.*)$", README, re.M)
    assert [command.split()[0] for command in commands] == ["convert", "bench", "build", "optimize"]
    shutil.copy(tiny_checkpoint, tmp_path / "ckpt.pth")
    export_foreign(tmp_path / "plain.onnx", "dynamicvit", "dynamo", opset=20, batch=1)
    for command in commands:
        short = ["--rounds", "1", "--round-seconds", "0.01"] if command.startswith("bench") else []
        done = subprocess.run(
            [sys.executable, "-m", "dynexport", *command.split(), *short],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_every_command_listed_exists() -> None:
    from dynexport.cli import app

    listed = re.findall(r"^\| `dynexport (\w+)", README, re.M)
    registered = [command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr]
    assert listed == registered


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).parents[1] / link).exists()
