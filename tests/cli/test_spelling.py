"""Misspelt names are told what they are close to; old spellings work on."""

from __future__ import annotations

from pathlib import Path

import pytest
from made.terminals import Ask

from dynexport.conversion import Conversion

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("convert C --precision fp-16", "fp16"),
        ("convert C --precision INT8-fp16", "int8-fp16"),
        ("convert C --precision fp16 --io-precision haf", "half"),
        ("convert C --precision int8 --calibration-data D --calibration-method minmax", "min-max"),
        ("convert C --precision int8 --calibration-data D --fallback-to aut", "auto"),
        ("convert C --model diet-s", "deit-s"),
        ("convert C --target tensort", "tensorrt"),
        ("convert C --edition rtx", "tensorrt-rtx"),
        ("verify M --backend onxruntime", "onnxruntime"),
        ("bench M --backend onnxruntime,openvno", "openvino"),
        ("check M --edition TensorRT", "tensorrt"),
        ("build M --edition tensorrt_rtx", "tensorrt-rtx"),
        ("visualize M D --backend openvin", "openvino"),
        ("sweep C --ratios 0.7 --precision fp32,in8-dynamic", "int8-dynamic"),
        ("sweep C --ratios 0.7 --backend openvin", "openvino"),
    ],
)
def test_a_misspelt_name_brings_the_nearest(
    ask: Ask, tiny_conversion: Conversion, tiny_checkpoint: Path, command: str, meant: str
) -> None:
    files = {"C": tiny_checkpoint, "M": tiny_conversion.onnx, "D": tiny_conversion.reference}
    code, out, err = ask(*(files.get(word, word) for word in command.split()))
    assert (code, out) == (2, "")
    assert f"did you mean {meant!r}? choose from " in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("convrt", "'convert'"),
        ("visualise", "'visualize'"),
        ("convert x --precison fp16", "--precision"),
    ],
)
def test_a_misspelt_command_or_option_brings_the_nearest(
    ask: Ask, command: str, meant: str
) -> None:
    code, out, err = ask(*command.split())
    assert (code, out) == (2, "")
    assert meant in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("build {M} --backend tensorrt-rtx -o b.engine", "--edition tensorrt-rtx"),
        ("check {M} --backend tensorrt-rtx", "--edition tensorrt-rtx"),
        ("convert {C} --engine tensorrt-rtx -o c.onnx", "--edition tensorrt-rtx"),
    ],
)
def test_an_old_spelling_works_on_and_says_the_new_one(
    ask: Ask, tiny_conversion: Conversion, tiny_checkpoint: Path, tmp_path: Path, old: str, new: str
) -> None:
    words = old.format(C=tiny_checkpoint, M=tiny_conversion.onnx).split()
    (at,) = (place for place, word in enumerate(words) if word in ("--backend", "--engine"))
    code, _, err = ask(*words, "--quiet")
    assert (code, err) == (
        0,
        f"note: {words[at]} {words[at + 1]} is spelt {new} now; the old spelling goes on working\n",
    )
    built = {"build": ["b.engine"], "check": [], "convert": ["c.engine"]}[words[0]]
    assert [path.name for path in tmp_path.glob("*.engine")] == built
    code, out, _ = ask(words[0], "--help")
    assert "--edition" in out
    assert "--backend" not in out


def test_an_engine_goes_where_it_is_asked_for(
    ask: Ask, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ("convert", tiny_checkpoint, "-o", "m.onnx", "--engine", "rtx/m.engine", "-q")
    assert ask(*arguments, "--edition", "tensorrt-rtx")[::2] == (0, "")
    assert (tmp_path / "rtx" / "m.engine").is_file()
    assert not (tmp_path / "m.engine").exists()
    code, _, err = ask("convert", tiny_checkpoint, "--engine", "rtx")
    assert code == 2
    assert "rtx does not end in .engine: name the engine to write" in err
