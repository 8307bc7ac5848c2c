"""Reference bundles whose arrays are not what `convert` wrote: each is told by its own name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dynexport.conversion import Conversion
from dynexport.errors import ModelFileError
from dynexport.formats.reference import ReferenceBundle
from dynexport.verify import verify_model

CHANGES: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]], str]] = {
    "text": ("output:logits", lambda a: a.astype(str), "'output:logits' is of <U"),
    "double": ("output:logits", np.float64, "'output:logits' is of float64, expected float32"),
    "whole numbers": ("scores_1", np.int64, "'scores_1' is of int64, expected float32"),
    "short positions": ("kept_0", np.int32, "'kept_0' is of int32, expected int64"),
    "dates": ("kept_2", lambda a: a.astype("M8[s]"), "'kept_2' is of datetime64"),
    "complex": ("images", np.complex64, "'images' is of complex64, expected uint8 or float32"),
    "no values": ("scores_0", lambda a: a[:, :0], "'scores_0' is empty, of shape [8, 0]"),
    "no images": ("images", lambda a: a[:0], "'images' is empty, of shape [0, 28, 28, 3]"),
}


@pytest.fixture
def change(tiny_conversion: Conversion, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a bundle with one change."""

    def write(case: str) -> Path:
        name, changed, _ = CHANGES[case]
        with np.load(tiny_conversion.reference) as file:
            arrays = dict(file)
        path = tmp_path / "changed.npz"
        np.savez(path, **{**arrays, name: changed(arrays[name])})
        return path

    return write


@pytest.mark.parametrize("case", CHANGES)
def test_an_array_of_another_kind_is_named(
    change: Callable[[str], Path], tiny_conversion: Conversion, case: str
) -> None:
    with pytest.raises(ModelFileError) as error:
        verify_model(tiny_conversion.onnx, reference=change(case))
    told = str(error.value)
    assert CHANGES[case][2] in told
    assert told.endswith(
        "another tool changed the bundle; convert the checkpoint again, or give "
        "another with `reference`"
    )


def test_what_is_added_to_a_bundle_is_passed_over(
    tiny_conversion: Conversion, tmp_path: Path
) -> None:
    with np.load(tiny_conversion.reference) as file:
        np.savez(tmp_path / "more.npz", remarks=np.array("text"), **file)
    assert len(ReferenceBundle.load(tmp_path / "more.npz").images) == 8
    verify_model(tiny_conversion.onnx, reference=tmp_path / "more.npz").require_passed()
