"""The video example, on clips made here: what is kept stays as it is, the rest is dimmed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from dynexport.conversion import Conversion, Recipe, convert

SCRIPT = Path(__file__).parents[2] / "examples" / "video" / "video.py"


@pytest.fixture(scope="module")
def video() -> Any:
    spec = importlib.util.spec_from_file_location("video", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tells what it keeps: 34, 24 and 16 of 49 patches of 4 x 4 pixels."""
    output = tmp_path_factory.mktemp("video") / "kept.onnx"
    return Path(
        convert(Recipe(tiny_checkpoint, ratio=0.7, batch=2, emit_kept=True, output=output)).onnx
    )


@pytest.fixture
def clip() -> list[Image.Image]:
    """A bright square that moves over noise, 28 x 28, five frames."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 60, (5, 28, 28, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[4:14, 4 * number : 4 * number + 10] = 255
    return [Image.fromarray(frame) for frame in frames]


def run(video: Any, *words: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["video.py", *map(str, words)])
        video.main()


def test_what_is_kept_is_drawn_frame_by_frame(
    video: Any, model: Path, clip: list[Image.Image], tmp_path: Path
) -> None:
    """Lossless, from a folder: the tiles are looked at pixel by pixel."""
    for number, frame in enumerate(clip):
        frame.save(tmp_path / f"{number}.png")
    run(video, model, tmp_path, "-o", tmp_path / "kept.webp")
    with Image.open(tmp_path / "kept.webp") as written:
        drawn = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(written)]
    assert len(drawn) == len(clip)
    counts = set()
    for frame, sheet in zip(clip, drawn, strict=True):
        tiles = np.split(sheet[video.LINE :: 8, ::8], 4, axis=1)
        pixels = np.asarray(frame)
        np.testing.assert_array_equal(tiles[0], pixels)
        before = np.ones((7, 7), dtype=bool)
        for tile, count in zip(tiles[1:], (34, 24, 16), strict=True):
            same = (tile == pixels).reshape(7, 4, 7, 4, 3).all(axis=(1, 3, 4))
            assert same.sum() == count
            assert (before | ~same).all(), "a stage keeps what the one before left"
            before = same
        counts.add(before.tobytes())
    assert len(counts) > 1, "what is kept follows what moves"


def test_an_animation_is_read_and_cut_short(
    video: Any, model: Path, clip: list[Image.Image], tmp_path: Path
) -> None:
    """And frames of another size are prepared as the model takes them."""
    wide = [frame.resize((80, 50)) for frame in clip]
    wide[0].save(tmp_path / "clip.gif", save_all=True, append_images=wide[1:])
    run(video, model, tmp_path / "clip.gif", "-o", tmp_path / "new" / "kept.gif", "--frames", 3)
    with Image.open(tmp_path / "new" / "kept.gif") as written:
        assert written.n_frames == 3
        assert written.size == (4 * 224, 224 + video.LINE)


def test_what_cannot_be_drawn_is_told(
    video: Any,
    model: Path,
    tiny_conversion: Conversion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "clip.mp4").write_bytes(b"no picture")
    for words, problem in (
        ((tiny_conversion.onnx, tmp_path), "does not tell what it keeps: convert with --emit-kept"),
        ((model, tmp_path / "none.gif"), "does not exist: give a folder, a clip, or a camera"),
        ((model, tmp_path / "clip.mp4"), "needs OpenCV: run  pip install opencv-python-headless"),
        ((model, "0"), "0 needs OpenCV"),
        ((model, tmp_path), "has no frames"),
    ):
        with pytest.raises(SystemExit) as left:
            run(video, *words, "-o", tmp_path / "kept.gif")
        assert problem in str(left.value)
    assert not (tmp_path / "kept.gif").exists()


def test_a_video_is_read_by_opencv(
    video: Any, model: Path, clip: list[Image.Image], tmp_path: Path
) -> None:
    """Where it is installed; lossless, so that red and blue are told apart."""
    cv2: Any = pytest.importorskip("cv2")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 5.0, (28, 28))
    frames = [np.asarray(frame) * np.array([1, 0, 0], dtype=np.uint8) for frame in clip]
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    read = [np.asarray(frame) for frame in video.frames_of(str(path))]
    assert len(read) == len(frames)
    for one, other in zip(read, frames, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 2
    run(video, model, path, "-o", tmp_path / "kept.gif")
    with Image.open(tmp_path / "kept.gif") as written:
        assert written.n_frames == len(frames)
