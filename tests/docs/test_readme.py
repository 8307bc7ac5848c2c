"""What the README says of the package holds; its commands run in `test_docs`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_every_command_listed_exists() -> None:
    from dynexport.cli import app

    listed = re.findall(r"^\| `dynexport (\w+)", README, re.M)
    registered = [command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr]
    assert listed == registered


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).parents[2] / link).exists()
