"""The fuzzer tells what was mishandled from what was taken as it should be."""

from __future__ import annotations

from random import Random

import pytest

from fuzz.contents import MARKER
from fuzz.damage import change_json, damage
from fuzz.judge import _fault_in, _fault_of

SENTENCE = "error: x.onnx is no valid ONNX file: it names no version; export it again\n"


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        (0, "a table\n", "... read x.onnx\nwarning: something\n"),
        (1, "findings\n", ""),
        (2, "", f"... read x.onnx\n{SENTENCE}"),
        (
            2,
            "",
            "Usage: dynexport check [OPTIONS]\nTry 'dynexport check -h'\n\nError: No such option\n",
        ),
    ],
)
def test_what_is_taken_as_it_should_be(code: int, out: str, err: str) -> None:
    assert _fault_in(code, out, err) == ""


@pytest.mark.parametrize(
    ("code", "out", "err", "told"),
    [
        (70, "", "error: a fault of dynexport's own, see where: KeyError: 'x'\n", "KeyError: 'x'"),
        (None, "", "RuntimeError escaped: x\n", "exit code None"),
        (2, "", f"Traceback (most recent call last):\n{SENTENCE}", "noise: Traceback"),
        (0, "", "2026-01-01 12:00:00 [E:onnxruntime:, x.cc:1] Non-zero status\n", "noise: 2026"),
        (2, "", f"Input 'x' of node 'y' cannot be found\n{SENTENCE}", "noise: Input 'x'"),
        (2, "", "", "0 sentences"),
        (2, "", SENTENCE * 2, "2 sentences"),
        (2, "half a table\n", SENTENCE, "printed beside an error: half a table"),
        (2, "", "error: the system refuses: there is not enough memory\n", "left to the system"),
    ],
)
def test_what_is_mishandled(code: int | None, out: str, err: str, told: str) -> None:
    assert told in _fault_in(code, out, err)


def test_what_is_wrong_with_files() -> None:
    assert _fault_of(0, ["lean.onnx"], changed=False) == ""
    assert _fault_of(2, [], changed=False) == ""
    assert _fault_of(2, [".x/lean.onnx"], changed=False) == "left behind: .x/lean.onnx"
    assert _fault_of(0, [], changed=True) == "an input was changed"
    assert _fault_of(0, [MARKER], changed=False) == "code of the input was run"


def test_a_seed_draws_the_same_damage() -> None:
    content = bytes(range(256)) * 20
    first, second, third = (damage(content, Random(seed)) for seed in ("0/1", "0/1", "0/2"))
    assert first == second != third
    assert change_json('{"a": [1]}', Random("0/1")) == change_json('{"a": [1]}', Random("0/1"))
