"""Who speaks how: an error of the library names parameters, which cli/ turns into options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "dynexport"


def raised_texts(path: Path) -> list[str]:
    """Every text that stands in a raise statement."""
    return [
        node.value
        for statement in ast.walk(ast.parse(path.read_text()))
        if isinstance(statement, ast.Raise)
        for node in ast.walk(statement)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_errors_of_the_library_name_no_options() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "cli"]
    texts = {text: path for path in files for text in raised_texts(path)}
    assert len(texts) > 200
    assert not {text: path for text, path in texts.items() if re.search(r"--[a-z]", text)}
