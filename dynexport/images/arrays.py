"""Images in an .npz, read one at a time: the array is never in memory as a whole."""

from __future__ import annotations

import hashlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dynexport.errors import ImageError
from dynexport.files.kinds import ARRAYS, kind_of
from dynexport.images.preprocessing import LARGEST_PICTURE, Preprocessing

DAMAGED_NPZ = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    SyntaxError,
    TypeError,
    AttributeError,
    RuntimeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged .npz may raise."""

CHUNK = 1 << 20
"""Bytes passed over at a time."""


@dataclass(frozen=True)
class _Header:
    """What an .npy member says of itself, and where its values begin, in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True, eq=False)
class ImageArray:
    """An .npz whose ``images`` are uint8 (N, H, W, C), or float32 (N, C, H, W) and normalised.

    labels  int64 (N,), from ``labels`` where there are any
    """

    path: Path
    header: _Header
    labels: NDArray[np.int64] | None
    told_by: ClassVar[str] = ""

    @classmethod
    def open(cls, path: Path, channels: int) -> ImageArray:
        """Read the headers and the labels; ImageError unless images have so many channels."""
        other = _no_images(path)
        with _reading(other), zipfile.ZipFile(path) as archive:
            header = _read_header(archive, "images")
            labels = _read_labels(archive, path) if "labels.npy" in archive.namelist() else None
        if header.fortran:
            raise ImageError(
                f"{path}: 'images' is stored column by column, expected row by row: save "
                "np.ascontiguousarray(images)"
            )
        if not _is_pictures(header, channels) and not _is_inputs(header, channels):
            raise ImageError(
                f"{path}: 'images' is {header}, expected uint8 (N, H, W, {channels}), or float32 "
                f"(N, {channels}, H, W) already normalised"
            )
        if labels is not None and len(labels) != header.shape[0]:
            raise ImageError(
                f"{path}: {len(labels)} labels for {header.shape[0]} images: expected one each"
            )
        return cls(path, header, labels)

    @property
    def total(self) -> int:
        return self.header.shape[0]

    def labelled(self, classes: int) -> ImageArray:
        """The same: its labels are numbers of classes."""
        return self

    def check(self, places: Sequence[int], steps: Preprocessing) -> None:
        """ImageError unless the images fit the model, as far as the header tells."""
        height, width = self.header.shape[2:] if self._normalised else self.header.shape[1:3]
        if self._normalised and (height, width) != steps.img_size:
            raise ImageError(
                f"{self.path}: 'images' is {self.header}, normalised, so it must have the "
                f"model's own size, {steps.img_size.height} x {steps.img_size.width}"
            )
        if not self._normalised:
            steps.check_size((width, height), str(self.path))

    def read(self, places: Sequence[int], steps: Preprocessing) -> Iterator[NDArray[Any]]:
        """The images at these places (ascending).

        uint8 (H, W, C) of the model's input size, or float32 (C, H, W). ImageError if the file is
        damaged or a value is no number.
        """
        for place, row in zip(places, self._rows(places), strict=True):
            if not self._normalised:
                yield steps.crop_pixels(row, f"{self.path}, image {place},")
            elif np.isfinite(row).all():
                yield row
            else:
                raise ImageError(f"{self.path}: images[{place}] holds values that are no numbers")

    def fingerprints(self, places: Sequence[int]) -> Iterator[bytes]:
        """What tells each image at these places (ascending) from any other."""
        for row in self._rows(places):
            yield hashlib.sha256(f"{row.dtype} {row.shape}".encode() + row.tobytes()).digest()

    @property
    def _normalised(self) -> bool:
        return self.header.dtype.kind == "f"

    def _rows(self, places: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Values of ``images`` at these places, ascending, in the machine's byte order."""
        size, dtype, shape = self.header.row_bytes, self.header.dtype, self.header.shape[1:]
        damaged = f"{self.path} is damaged: 'images' cannot be read whole; make the file again"
        with (
            _reading(damaged),
            zipfile.ZipFile(self.path) as archive,
            archive.open("images.npy") as stream,
        ):
            at = -self.header.start
            for place in places:
                _skip(stream, place * size - at)
                row = np.frombuffer(_exactly(stream, size), dtype=dtype).reshape(shape)
                at = (place + 1) * size
                yield row.astype(dtype.newbyteorder("="), copy=False)
            while stream.read(CHUNK):  # at the end zipfile compares the checksum
                pass


def _no_images(path: Path) -> str:
    """What to say of a file that holds no images, naming what it is where that is known."""
    kind = kind_of(path)
    told = f"{path} is {kind}, no folder" if kind and kind != ARRAYS else f"{path} is no folder"
    return f"{told} and no .npz with an array 'images': give one of the two"


@contextmanager
def _reading(problem: str) -> Iterator[None]:
    """Turns what a damaged file raises into one ImageError that says this."""
    try:
        yield
    except DAMAGED_NPZ:
        raise ImageError(problem) from None


def _read_header(archive: zipfile.ZipFile, name: str) -> _Header:
    """The header of a member; ValueError if it does not hold what its header promises."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("not written by numpy")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(stream)
        header = _Header(dtype, shape, fortran, stream.tell())
    if dtype.hasobject or info.file_size != header.start + dtype.itemsize * math.prod(shape):
        raise ValueError("objects, or cut short")
    return header


def _read_labels(archive: zipfile.ZipFile, path: Path) -> NDArray[np.int64]:
    header = _read_header(archive, "labels")
    if len(header.shape) != 1 or header.dtype.kind not in "iu":
        raise ImageError(f"{path}: 'labels' is {header}, expected whole numbers (N,)")
    with archive.open("labels.npy") as stream:
        _skip(stream, header.start)
        values = _exactly(stream, header.shape[0] * header.row_bytes)
    return np.frombuffer(values, dtype=header.dtype).astype(np.int64)


def _is_pictures(header: _Header, channels: int) -> bool:
    """Whether it is of uint8 (N, H, W, C)."""
    shape = header.shape
    return header.dtype == np.uint8 and _fits((*shape[:1], *shape[3:], *shape[1:3]), channels)


def _is_inputs(header: _Header, channels: int) -> bool:
    """Whether it is of float32 (N, C, H, W)."""
    return header.dtype.newbyteorder("=") == np.float32 and _fits(header.shape, channels)


def _fits(shape: tuple[int, ...], channels: int) -> bool:
    """Whether (N, C, H, W) are images of so many channels, none empty, none beyond all bounds."""
    return (
        len(shape) == 4
        and shape[1] == channels
        and min(shape) > 0
        and shape[2] * shape[3] <= LARGEST_PICTURE
    )


def _skip(stream: IO[bytes], size: int) -> None:
    while size > 0:
        size -= len(_exactly(stream, min(size, CHUNK)))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """This many bytes; EOFError if there are fewer."""
    content = stream.read(size)
    if len(content) != size:
        raise EOFError
    return content
