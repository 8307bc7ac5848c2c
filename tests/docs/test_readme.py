"""What the README says of the package holds, and it is short; its commands run in `test_docs`."""

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


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 130


def sentences() -> list[str]:
    """Prose, without code, tables, headings and pictures; an item of a list is a paragraph."""
    text = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    text = re.sub(r"^( {4}|[|#!<]).*$", "", text, flags=re.M)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    paragraphs = re.split(r"\n\s*\n|\n- ", text)
    return [
        sentence
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.?!])\W*\s", paragraph.strip())
        if sentence
    ]


def test_sentences_are_short() -> None:
    assert len(sentences()) > 20
    assert [sentence for sentence in sentences() if len(sentence.split()) >= 25] == []
