"""What can be read at once: the length of files and functions, and how much a call takes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path for base in ("dynexport", "models", "calibration") for path in (ROOT / base).rglob("*.py")
)

LONGEST_FILE = 310
LONGEST_BODY = 40
"""Lines behind the signature and the docstring, which may be as long as a table of options."""
MOST_PARAMETERS = 12
"""Outside of cli/, whose signatures are the command line."""

ALLOWED = {
    "dynexport/verify/__init__.py:verify_model": "a keyword for each option of `verify`",
}
"""Longer than that, and why: files by path, functions by path and name."""


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Path and name of each function of a file, the lines of its body, the parameters it takes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first, taken = node.body[0], node.args
            start = first.lineno
            if ast.get_docstring(node) is not None:
                start = (first.end_lineno or start) + 1
            names = [each.arg for each in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            count += sum(more is not None for more in (taken.vararg, taken.kwarg))
            lines = (node.end_lineno or start) - start + 1
            yield f"{path.relative_to(ROOT)}:{node.name}", lines, count


def too_large() -> dict[str, str]:
    """By path, or path and name, what is over a limit."""
    found = {}
    for path in FILES:
        place, lines = str(path.relative_to(ROOT)), len(path.read_text().splitlines())
        if lines > LONGEST_FILE:
            found[place] = f"{lines} lines"
        for name, body, count in functions(path):
            if body > LONGEST_BODY:
                found[name] = f"{body} lines"
            if count > MOST_PARAMETERS and not place.startswith("dynexport/cli/"):
                found[name] = f"{count} parameters"
    return found


def test_nothing_is_too_large() -> None:
    assert not {name: size for name, size in too_large().items() if name not in ALLOWED}


def test_what_is_allowed_is_needed() -> None:
    assert ALLOWED.keys() <= too_large().keys()


def test_functions_are_found() -> None:
    """With the body counted from behind the docstring, self apart."""
    found = {name: (body, count) for path in FILES for name, body, count in functions(path)}
    assert len(found) > 1000
    body, count = found["dynexport/report/__init__.py:write_report"]
    assert 20 < body <= LONGEST_BODY
    assert count == 7
    assert found["dynexport/engine/sidecar.py:path_beside"] == (1, 1)
