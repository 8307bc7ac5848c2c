"""Examples use what users may rely on, and nothing else of dynexport."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted((*EXAMPLES.rglob("*.py"), *EXAMPLES.rglob("*.ipynb")))

FAMILIES = ("deit", "lvvit", "swin", "convnext", "layers")
"""Modules of `dynexport.models` whose own public names a plugin, or a training, may build on."""


def names_used(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module and name of all that a file takes of dynexport."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dynexport":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name == "dynexport" or not alias.name.startswith("dynexport.")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "dynexport":
            yield "dynexport", node.attr


def source_of(path: Path) -> str:
    """A program, or the code of a notebook."""
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def is_public(module: str, name: str) -> bool:
    """Listed in the package's or its models' ``__all__``, or defined in a family's file."""
    found = importlib.import_module(module)
    if module in ("dynexport", "dynexport.models"):
        return name in found.__all__
    allowed = [f"dynexport.models.{family}" for family in FAMILIES]
    defined = getattr(getattr(found, name), "__module__", module) == module
    return module in allowed and not name.startswith("_") and defined


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_uses_public_names_alone(path: Path) -> None:
    used = list(names_used(ast.parse(source_of(path))))
    assert used
    assert not [each for each in used if not is_public(*each)]


def test_every_example_is_looked_at() -> None:
    assert {path.name for path in FILES} >= {
        *("checkpoint-to-picture.ipynb", "demo.py", "evit.py", "train.py", "video.py")
    }


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("dynexport", "artifact"),
        ("dynexport.models", "registry"),
        ("dynexport.pytorch.rewrite", "rewrite"),
        ("dynexport.models.deit", "Tensor"),
        ("dynexport.models.registry", "families"),
    ],
)
def test_what_is_not_public_is_told(module: str, name: str) -> None:
    assert not is_public(module, name)
