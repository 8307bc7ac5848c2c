"""A conversion and a verification read what they need once, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from dynexport.conversion import Conversion, Recipe, convert
from dynexport.formats.metadata import Metadata
from dynexport.verify import verify_model


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read, as it is read: metadata of a name, and ONNX files by their path."""
    seen: list[str] = []
    parse, load = Metadata.from_properties, onnx.load

    def parse_counted(properties: Any, name: str) -> Metadata:
        seen.append(f"metadata of {name}")
        return parse(properties, name)

    def load_counted(path: str, *others: Any, **named: Any) -> onnx.ModelProto:
        seen.append(f"file {path}")
        return load(path, *others, **named)

    monkeypatch.setattr(Metadata, "from_properties", parse_counted)
    monkeypatch.setattr(onnx, "load", load_counted)
    return seen


@pytest.mark.parametrize("precision", ["fp32", "int8-dynamic"])
def test_a_conversion_reads_nothing_of_what_it_writes(
    tiny_checkpoint: Path, tmp_path: Path, read: list[str], precision: str
) -> None:
    result = convert(
        Recipe(tiny_checkpoint, precision=precision, batch=2, output=tmp_path / "m.onnx")
    )
    assert not [one for one in read if "metadata" in one or str(tmp_path) in one]
    assert result.metadata == Metadata.from_properties(
        {entry.key: entry.value for entry in onnx.load(result.onnx).metadata_props}, "m"
    )


def test_a_verification_reads_file_and_metadata_once(
    tiny_conversion: Conversion, tiny_checkpoint: Path, read: list[str]
) -> None:
    once = [f"file {tiny_conversion.onnx}", f"metadata of {tiny_conversion.onnx}"]
    assert verify_model(tiny_conversion.onnx).passed
    assert read == once
    read.clear()
    assert verify_model(tiny_conversion.onnx, checkpoint=tiny_checkpoint, bisect=True).passed
    assert read == once
