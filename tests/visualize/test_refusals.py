"""What cannot be drawn is refused in one sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from made.looking import artifact_of
from made.onnx_models import skip_with_a_gpu
from made.tiny import Tiny
from PIL import Image

from dynexport.engine import build_engine
from dynexport.errors import DeviceError, DynexportError, InputError, ModelFileError
from dynexport.visualize import visualize_images
from dynexport.visualize.look import look_at
from dynexport.visualize.strips import LARGEST_SIDE, draw_strips, plan_layout


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"output": "out.gif"}, r"out.gif ends in none of .png, .jpg, .jpeg: name a picture"),
        ({"output": "pictures/0.png", "images": ["pictures"]}, "0.png would be overwritten"),
        ({"images": []}, "no images were given"),
        ({"images": ["gone.png"]}, "gone.png does not exist: expected a picture, a folder of"),
        ({"images": ["text.png"]}, "text.png is not a readable image"),
        ({"images": ["cut.png"]}, "cut.png is not a readable image"),
        ({"images": ["large.png"]}, "large.png is 56 x 56: this model takes images of exactly"),
        ({"images": ["empty"]}, "no images in"),
        ({"images": ["text.npz"]}, "text.npz is no folder and no .npz"),
        ({"images": ["pictures"], "count": 0}, "0 images were asked for"),
        ({"top": -1}, "`top` -1 asks for fewer than no classes"),
        ({"font": "text.png"}, "text.png is no font that can be read"),
        ({"labels": "text.png"}, "holds 1 names, and the model knows 10 classes"),
        ({"backend": "onnxruntime", "engine": "e.engine"}, "give one of the two"),
        ({"backend": "onnxruntim"}, "did you mean 'onnxruntime'"),
        ({"engine": "gone.engine"}, "gone.engine does not exist"),
        ({"model": "text.png"}, "is not a complete ONNX file"),
    ],
)
def test_what_cannot_be_drawn(
    model: Path, folder: Path, tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    """One sentence each, and nothing is written."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "empty").mkdir()
    content = (folder / "pictures" / "0.png").read_bytes()
    (tmp_path / "pictures" / "0.png").write_bytes(content)
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    for name in ("text.png", "text.npz"):
        (tmp_path / name).write_text("no picture")
    Image.new("RGB", (56, 56)).save(tmp_path / "large.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given: dict[str, Any] = {"model": model, "images": ["pictures"], "output": "out.png"}
    for name, value in (given | options).items():
        in_folder = name in ("output", "labels", "font", "engine", "model")
        given[name] = tmp_path / value if in_folder else value
    given["images"] = [tmp_path / name for name in given["images"]]
    with pytest.raises(DynexportError, match=problem) as refused:
        visualize_images(**given)
    assert "\n" not in str(refused.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_an_engine_that_cannot_run_here(model: Path, folder: Path, tmp_path: Path) -> None:
    skip_with_a_gpu()
    engine, out = tmp_path / "tiny.engine", tmp_path / "out.png"
    build_engine(model, edition="tensorrt-rtx", output=engine)
    with pytest.raises(DeviceError, match="no NVIDIA driver is installed: engines run on an"):
        visualize_images(model, folder / "pictures", out, engine=engine)
    assert not out.exists()


def test_rows_that_are_no_tokens_are_told(deit: Tiny, tmp_path: Path) -> None:
    """A stage that selects more of them than are left, by metadata that do not fit."""
    facts = dataclasses.replace(deit.metadata, keep_counts=(34, 24, 24))
    graph = deit.graph.clone()
    graph.metadata_props.update(facts.to_properties())
    with pytest.raises(ModelFileError, match=r"stage 3 of .* keeps rows that are no tokens: `dyn"):
        look_at(artifact_of(deit, tmp_path, graph), deit.bundle.images)


def test_more_images_than_a_file_holds(deit: Tiny) -> None:
    with pytest.raises(
        InputError,
        match=r"1000 images make a picture of 1,\d+ x 2\d\d,\d+ pixels, and a file holds 65",
    ):
        plan_layout(deit.metadata, scores=False, classes=3, images=1000)
    layout = plan_layout(deit.metadata, scores=True, classes=3, images=100)
    assert 100 * layout.height < LARGEST_SIDE
    with pytest.raises(InputError, match="no image to draw"):
        draw_strips((), deit.metadata)
    odd = dataclasses.replace(deit.metadata, num_tokens=50, grid=None)
    with pytest.raises(InputError, match="50 tokens, which form no grid"):
        plan_layout(odd, scores=False, classes=3)
