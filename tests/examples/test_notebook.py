"""The notebook, cell by cell, with no Jupyter: a notebook is JSON, and its cells are Python."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "examples/notebook/checkpoint-to-picture.ipynb").read_text())
CELLS = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


def run_cell(source: str, variables: dict[str, Any]) -> Any:
    """Run it; the value of its last line, as a notebook shows it, None where that is no value."""
    *lines, last = ast.parse(source).body
    exec(compile(ast.Module(lines, []), "cell", "exec"), variables)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), variables)
    exec(compile(ast.Module([last], []), "cell", "exec"), variables)
    return None


@pytest.mark.slow
def test_it_runs_from_checkpoint_to_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a copy of the folders it knows."""
    shutil.copytree(ROOT / "examples" / "mnist", tmp_path / "mnist")
    (tmp_path / "notebook").mkdir()
    monkeypatch.chdir(tmp_path / "notebook")
    variables: dict[str, Any] = {}
    looked, converted, verified, timed, drawn, _ = (run_cell(cell, variables) for cell in CELLS)
    assert looked == ("deit", 6, (1, 2, 3))
    assert converted == (196, (137, 96, 67), 1.75)
    assert verified == (0.982, [1.0, 1.0, 1.0])
    assert isinstance(timed, str)
    assert isinstance(drawn, Image.Image)
    assert drawn.size == variables["drawn"].size
    *_, found, labels = capsys.readouterr().out.splitlines()
    same = [one == other for one, other in zip(found.split(), labels.split(), strict=True)]
    assert sum(same) >= 15


def test_it_is_stored_without_output() -> None:
    """So that it is the same after each run, and small."""
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    for cell in NOTEBOOK["cells"]:
        code = {"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {}
        kept = {"cell_type", "id", "metadata", "source", *code}
        assert set(cell) == kept
        assert {name: cell[name] for name in code} == code
