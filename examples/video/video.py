"""What a model keeps of a video, frame by frame: what each stage drops is dimmed.

    dynexport convert ckpt.pth --ratio 0.7 --batch 1 --emit-kept -o ckpt-kept.onnx
    python examples/video/video.py ckpt-kept.onnx clip.gif -o kept.gif
    python examples/video/video.py ckpt-kept.onnx frames/ -o kept.gif
    python examples/video/video.py ckpt-kept.onnx 0 --frames 100 -o kept.gif    # the first camera

A folder of pictures, and what Pillow reads (GIF, WebP, APNG), need nothing more; videos and cameras
need OpenCV (pip install opencv-python-headless).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageSequence, UnidentifiedImageError

import dynexport

TILE = 224
"""Side of a frame as it is drawn, pixels, as far as whole factors go."""

LINE = 14
"""Height of the text, pixels."""

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="an ONNX file, converted with --emit-kept")
    parser.add_argument("source", help="a folder, an animation, a video, or a camera's number")
    parser.add_argument("-o", "--out", type=Path, default=Path("kept.gif"), help=".gif or .webp")
    parser.add_argument("--frames", type=int, help="stop after so many; default: all there are")
    parser.add_argument("--fps", type=float, default=10.0, help="of what is written")
    options = parser.parse_args()
    try:
        looked = Looker(options.model)
        drawn = [looked.draw(frame) for frame in islice(frames_of(options.source), options.frames)]
    except (dynexport.DynexportError, OSError) as error:
        sys.exit(f"error: {error}")
    if not drawn:
        sys.exit(f"error: {options.source} has no frames")
    save(drawn, options.out, options.fps)
    print(f"wrote {options.out}: {len(drawn)} frames, each with {looked.stages} stages")


class Looker:
    """A model open in ONNX Runtime, and how it takes pictures."""

    def __init__(self, model: Path) -> None:
        facts = dynexport.inspect_file(model)
        told = facts["dynexport"]
        self.stages = len([name for name in facts["outputs"] if name.startswith("kept_")])
        if not told or not self.stages:
            raise dynexport.DynexportError(
                f"{model} does not tell what it keeps: convert with --emit-kept, and a ratio"
            )
        steps = told["preprocessing"]
        self._height, self._width = steps["img_size"]
        self._covered = steps["resize"] or steps["img_size"]
        self._warp = steps.get("warp", False)
        self._mean, self._std = np.float32(steps["mean"]), np.float32(steps["std"])
        self._grid = told["grid"]
        self._smallest = int(told["batch"].split(":")[0])
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def draw(self, frame: Image.Image) -> Image.Image:
        """The frame as the model sees it, and beside it what each stage leaves of it."""
        pixels = self._crop(frame)
        kept, logits = self.look(pixels)
        tiles = [pixels, *(self._dim(pixels, positions) for positions in kept)]
        factor = max(1, TILE // max(self._height, self._width))
        sheet = np.concatenate(
            [np.kron(t, np.ones((factor, factor, 1), np.uint8)) for t in tiles], 1
        )
        picture = Image.new("RGB", (sheet.shape[1], sheet.shape[0] + LINE), "white")
        picture.paste(Image.fromarray(sheet), (0, LINE))
        best = int(np.argmax(logits))
        share = float(np.exp(logits[best] - np.logaddexp.reduce(logits)))
        ImageDraw.Draw(picture).text((2, 1), f"class {best}, {share:.0%}", "black")
        return picture

    def look(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
        """Of uint8 (H, W, 3) the positions on the grid that each stage keeps, and the logits."""
        image = ((pixels / np.float32(255) - self._mean) / self._std).transpose(2, 0, 1)
        batch = np.repeat(image[None].astype(np.float32), self._smallest, axis=0)
        names = [f"kept_{stage}" for stage in range(self.stages)]
        *kept, logits = self._session.run([*names, "logits"], {"images": batch})
        return [rows[0] for rows in kept], logits[0].astype(np.float64)

    def _crop(self, frame: Image.Image) -> NDArray[np.uint8]:
        """Resized and cut to the centre, as the model was trained."""
        high, wide = self._covered
        scale = max(high / frame.height, wide / frame.width)
        width, height = (
            max(least, int(scale * side + 1e-6))
            for least, side in zip((self._width, self._height), frame.size, strict=True)
        )
        if self._warp:
            width, height = wide, high
        frame = frame.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self._width) // 2, (height - self._height) // 2
        return np.asarray(frame.crop((left, top, left + self._width, top + self._height)))

    def _dim(self, pixels: NDArray[np.uint8], kept: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Dropped patches at a quarter of their contrast, on grey."""
        mask = np.zeros(self._grid, dtype=bool)
        mask.flat[kept[kept < mask.size]] = True  # behind the grid are tokens that are no patches
        patch = self._height // len(mask)
        whole = mask.repeat(patch, axis=0).repeat(patch, axis=1)
        return np.where(whole[..., None], pixels, pixels // 4 + 96).astype(np.uint8)


def frames_of(source: str) -> Iterator[Image.Image]:
    """The frames of a folder, an animation, a video file or a camera, one at a time."""
    path = Path(source)
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in PICTURES:
                with Image.open(file) as picture:
                    yield picture.convert("RGB")
        return
    if path.is_file():
        try:
            with Image.open(path) as clip:
                for frame in ImageSequence.Iterator(clip):
                    yield frame.convert("RGB")
            return
        except UnidentifiedImageError:
            pass  # a video, then
    elif not source.isdigit():
        raise FileNotFoundError(f"{source} does not exist: give a folder, a clip, or a camera")
    yield from frames_by_opencv(source)


def frames_by_opencv(source: str) -> Iterator[Image.Image]:
    """Of a video file, or of the camera of this number."""
    try:
        import cv2
    except ImportError:
        raise OSError(f"{source} needs OpenCV: run  pip install opencv-python-headless") from None
    capture: Any = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise OSError(f"{source} cannot be opened by OpenCV")
    try:
        while True:
            there, pixels = capture.read()
            if not there:
                return
            yield Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))  # BGR
    finally:
        capture.release()


def save(frames: list[Image.Image], path: Path, fps: float) -> None:
    """An animation that goes on for ever."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = frames
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(
        path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0, **lossless
    )


if __name__ == "__main__":
    main()
