"""Files that another tool changed: what is said names the file that was changed, and by whom."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import version_converter

from dynexport.bench import bench_model
from dynexport.conversion import Conversion
from dynexport.errors import ModelFileError
from dynexport.verify import verify_model


@pytest.fixture
def changed(tiny_conversion: Conversion, tmp_path: Path) -> Path:
    """A copy of a converted model and its bundle."""
    shutil.copy(tiny_conversion.reference, tmp_path)
    return Path(shutil.copy(tiny_conversion.onnx, tmp_path))


def test_counts_that_were_edited_are_the_models_not_the_bundles(changed: Path) -> None:
    model = onnx.load(str(changed))
    (counts,) = (entry for entry in model.metadata_props if entry.key == "dynexport.keep_counts")
    assert counts.value == "[34, 24, 16]"
    counts.value = "[30, 20, 10]"
    onnx.save(model, str(changed))
    with pytest.raises(ModelFileError) as error:
        verify_model(changed)
    told = str(error.value)
    assert told.startswith(
        f"{changed} says that its stages keep 30, 20, 10 tokens, and PyTorch kept"
    )
    assert "kept 34, 24, 16 at the same ratios" in told
    assert told.endswith("another tool changed the counts; convert the checkpoint again")


def test_a_twin_that_cannot_be_made_is_the_other_tools_doing(changed: Path) -> None:
    """ONNX's own converter drops the definitions of operators."""
    converted = version_converter.convert_version(onnx.load(str(changed)), 21)
    onnx.save(converted, str(changed))
    with pytest.raises(ModelFileError, match="another tool changed the file, and dropped what"):
        bench_model(changed, pytorch=False)
