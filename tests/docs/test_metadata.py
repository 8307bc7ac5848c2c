"""The page on metadata: complete, and its examples are what a file holds."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dynexport.formats.metadata import ENTRIES, PREFIX, Metadata, as_json
from dynexport.images import Preprocessing
from dynexport.inspection import inspect_file
from dynexport.precision import PrecisionReport
from dynexport.schedule import Selection

PAGE = (Path(__file__).parents[2] / "docs" / "metadata.md").read_text()
RELEASE = Path(__file__).parents[1] / "made" / "release_0_1_0"
ROWS = re.findall(r"^\| `dynexport\.(\w+)` \| ([^|]+) \| ([^|]+) \| `(.+)` \|$", PAGE, re.M)
EXAMPLES = {name: example for name, _, _, example in ROWS}

KINDS = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}


def is_a(kind: str, value: Any) -> bool:
    """Whether a value is of a kind as the page words it: `object of arrays of integers`."""
    if ", or " in kind or " or " in kind:
        return any(is_a(one, value) for one in re.split(r",? or ", kind))
    outer, _, inner = kind.partition(" of ")
    if not isinstance(value, KINDS[outer.rstrip("s")]):
        return False
    if outer.startswith("integer") and isinstance(value, bool):
        return False
    held = value.values() if isinstance(value, dict) else value
    return not inner or all(is_a(inner, one) for one in held)


def test_every_entry_is_told_once() -> None:
    assert sorted(EXAMPLES) == sorted(ENTRIES)
    assert len(ROWS) == len(ENTRIES)
    assert set(ENTRIES) == {field.name for field in dataclasses.fields(Metadata)}


@pytest.mark.parametrize(("name", "kind", "meaning", "example"), ROWS, ids=[r[0] for r in ROWS])
def test_an_example_is_of_its_kind(name: str, kind: str, meaning: str, example: str) -> None:
    assert is_a(kind, json.loads(example)), (name, kind)
    assert meaning.strip()


def test_the_kinds_are_told_apart() -> None:
    assert is_a("array of numbers, or null", None)
    assert not is_a("array of numbers, or null", ["a"])
    assert not is_a("object of arrays of integers", {"logits": [0.5]})
    assert not is_a("integer", True)


def test_the_examples_are_one_sound_file() -> None:
    properties = {PREFIX + name: example for name, example in EXAMPLES.items()}
    facts = Metadata.from_properties(properties, "the page")
    assert facts.to_properties() == properties


def test_inspect_and_a_sidecar_have_the_same_entries() -> None:
    told = inspect_file(RELEASE / "tiny.onnx")["dynexport"]
    assert set(told) == set(ENTRIES)
    sidecar = json.loads((RELEASE / "tiny.engine.json").read_text())
    since = {PREFIX + name for name in ("assumed", "grid")}
    assert set(sidecar["properties"]) | since == {PREFIX + name for name in ENTRIES}
    assert all(isinstance(json.loads(text), object) for text in sidecar["properties"].values())


def test_an_entry_may_be_missing_where_the_page_says_so() -> None:
    optional = {
        field.name
        for field in dataclasses.fields(Metadata)
        if field.default is not dataclasses.MISSING
        or field.default_factory is not dataclasses.MISSING
    }
    told = {
        name: re.search(r"Missing in old files: `?([^`|]*)`?$", text) for name, _, text, _ in ROWS
    }
    assert {name for name, found in told.items() if found} == optional
    kept = {PREFIX + name: example for name, example in EXAMPLES.items() if name not in optional}
    facts = Metadata.from_properties(kept, "the page")
    for name in optional:
        found = told[name]
        assert found is not None
        assert json.loads(found[1]) == as_json(facts)[name]


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("preprocessing", Preprocessing),
        ("selection", Selection),
        ("precision", PrecisionReport),
    ],
)
def test_what_an_object_holds_is_told(heading: str, kind: Any) -> None:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ", section, re.M)
    assert [name for name, _ in rows] == [field.name for field in dataclasses.fields(kind)]
    example = json.loads(EXAMPLES[heading])
    assert [name for name, _ in rows] == list(example)
    for name, told in rows:
        assert is_a(told, example[name]), name
