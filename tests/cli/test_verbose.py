"""What --verbose tells, and what libraries say."""

from __future__ import annotations

import logging
import re
import warnings

import pytest
from made.terminals import Ask

from dynexport.conversion import Conversion
from dynexport.progress import are_heard, let_through, unheard

pytestmark = pytest.mark.slow


def test_verbose_tells_the_seconds_of_each_step(ask: Ask, tiny_conversion: Conversion) -> None:
    code, _, err = ask("verify", tiny_conversion.onnx, "--verbose")
    begun, done = err.splitlines()
    assert code == 0
    assert begun == f"... verify {tiny_conversion.onnx}"
    assert re.fullmatch(re.escape(begun) + r": \d+\.\d\d s", done)
    assert ask("verify", tiny_conversion.onnx)[2] == f"{begun}\n"


def test_verbose_lets_the_libraries_remark(
    ask: Ask, tiny_conversion: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool] = []
    verify = __import__("dynexport.verify", fromlist=["verify_model"]).verify_model

    def listen(*given: object, **options: object) -> object:
        heard.append(are_heard())
        return verify(*given, **options)

    monkeypatch.setattr("dynexport.verify.verify_model", listen)
    for flags in ((), ("-v",), ()):
        ask("verify", tiny_conversion.onnx, *flags)
    assert heard == [False, True, False]


def test_remarks_are_unheard_unless_let_through(caplog: pytest.LogCaptureFixture) -> None:
    def remark() -> int:
        with warnings.catch_warnings(record=True) as seen, unheard("talkative"):
            warnings.warn("a remark", stacklevel=1)
            logging.getLogger("talkative").warning("a remark")
        return len(seen)

    assert (remark(), caplog.messages) == (0, [])
    let_through(True)
    try:
        assert (remark(), caplog.messages) == (1, ["a remark"])
    finally:
        let_through(False)
    assert logging.getLogger("talkative").level == logging.NOTSET
