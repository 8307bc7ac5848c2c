"""`--expect` on convert and verify: exit codes, sentences, and nothing written where it fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dynexport.cli import app, main
from dynexport.conversion import Conversion
from dynexport.formats.reference import ReferenceBundle


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory, tiny_conversion: Conversion) -> Path:
    """What PyTorch answered."""
    bundle = ReferenceBundle.load(tiny_conversion.reference)
    path = tmp_path_factory.mktemp("with spaces") / "expect.npz"
    np.savez(path, images=bundle.images, logits=bundle.outputs["logits"])
    return path


@pytest.fixture(scope="module")
def wrong(right: Path) -> Path:
    """The same in another order of classes."""
    path = right.with_name("wrong.npz")
    with np.load(right) as arrays:
        np.savez(path, images=arrays["images"], logits=np.flip(arrays["logits"], axis=1))
    return path


def leave(*words: object) -> object:
    with pytest.raises(SystemExit) as left:
        main([*map(str, words), "-q"])
    return left.value.code


def test_convert_holds_to_what_is_expected(
    tiny_checkpoint: Path, right: Path, tmp_path: Path
) -> None:
    words = ["convert", tiny_checkpoint, "--expect", right, "-o", tmp_path / "x.onnx", "-q"]
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0
    assert "beside your own model's answers on 8 images" in done.stdout


@pytest.mark.slow
def test_convert_writes_nothing_where_answers_differ(
    tiny_checkpoint: Path, wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "x.onnx"
    assert leave("convert", tiny_checkpoint, "--expect", wrong, "-o", out) == 1
    assert not out.parent.exists()
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"does not answer as {wrong} expects" in sentence


def test_verify_needs_no_checkpoint(
    tiny_conversion: Conversion, right: Path, wrong: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave("verify", tiny_conversion.onnx, "--expect", right) in (0, None)
    assert "beside your own model's answers on 8 images" in capsys.readouterr().out
    assert leave("verify", tiny_conversion.onnx, "--expect", wrong) == 1
    told = capsys.readouterr().out
    assert f"failed: {wrong} expects other answers: logits differs by" in told
    assert told.rstrip().endswith("--checkpoint has the cause named")


@pytest.mark.parametrize("content", [b"", b"text"])
def test_what_is_no_expectation_is_refused(
    tiny_conversion: Conversion,
    tmp_path: Path,
    content: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "x.npz"
    broken.write_bytes(content)
    assert leave("verify", tiny_conversion.onnx, "--expect", broken) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
