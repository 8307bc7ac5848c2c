"""What the README says of the package holds, and it is short; its commands run in `test_docs`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dynexport.formats.expectation import Expectation
from dynexport.images import Preprocessing

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


def test_the_three_lines_record_what_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a loader and a model as training has them; the pages show the same three."""
    (lines,) = re.findall(r"^```text\n(images = .*?)^```$", README, re.M | re.S)
    assert len(lines.splitlines()) == 3
    for page in ("quick-start", "what-can-be-converted"):
        assert lines in (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text()
    monkeypatch.chdir(tmp_path)
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 28 * 28, 10))
    seen = torch.randn(20, 3, 28, 28)
    exec(lines, {"numpy": np, "loader": [(seen, torch.zeros(20))], "model": own})
    found = Expectation.load("expect.npz", Preprocessing.for_size(28), {"logits": (10,)})
    assert found.recorded == 8
    assert torch.equal(torch.from_numpy(found.outputs["logits"]), own(seen[:8]).detach())


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
