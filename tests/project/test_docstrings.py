"""Docstrings as `help()` shows them: the first line stands alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dynexport

ROOT = Path(__file__).parents[2]


def public(path: Path) -> Iterator[tuple[str, str | None]]:
    """A module and what it defines that is no secret: where, and its docstring."""
    module = ast.parse(path.read_text())
    place = str(path.relative_to(ROOT))
    yield place, ast.get_docstring(module)
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            if text is not None or node in module.body:  # a method may need none
                yield f"{place}: {node.name}", text


def stands_alone(text: str | None) -> bool:
    """A sentence of one line; behind it nothing, or an empty line."""
    first, *rest = (text or "").splitlines() or [""]
    return first.endswith((".", "?")) and len(first) < 100 and (not rest or not rest[0])


def test_first_lines_stand_alone() -> None:
    found = [
        entry
        for folder in ("dynexport", "models", "calibration")
        for path in (ROOT / folder).rglob("*.py")
        for entry in public(path)
    ]
    assert len(found) > 1000
    assert [place for place, text in found if not stands_alone(text)] == []


def test_public_names_say_what_they_are() -> None:
    names = {name: getattr(dynexport, name).__doc__ for name in dynexport.__all__}
    assert [name for name, text in names.items() if not stands_alone(text)] == []
