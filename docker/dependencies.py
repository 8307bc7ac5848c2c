"""Write what a project needs, and what each of its extras adds, as requirement files of their own.

    python dependencies.py pyproject.toml FOLDER

gives FOLDER/core.txt and FOLDER/EXTRA.txt, so that an image can install everything but the
project in a layer that only a change of these lists renews. Needs Python 3.11.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import tomllib


def write_lists(pyproject: Path, folder: Path) -> None:
    """One file for the project itself, one for each extra."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    lists = {"core": project["dependencies"], **project["optional-dependencies"]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, needs in lists.items():
        lines = [_as_line(project["name"], need) for need in needs]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _as_line(project: str, need: str) -> str:
    """A requirement as it is, but the project's own extra as a reference to that extra's file."""
    own = re.fullmatch(rf"{re.escape(project)}\[([\w-]+)\]", need)
    return f"-r {own[1]}.txt" if own else need


if __name__ == "__main__":
    write_lists(Path(sys.argv[1]), Path(sys.argv[2]))
