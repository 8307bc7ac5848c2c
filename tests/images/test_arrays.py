"""Arrays are read one image at a time, damaged ones refused."""

from __future__ import annotations

import tempfile
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made.pictures import CROPPED, TINY, numbered, save_npz

from dynexport.errors import ImageError
from dynexport.images import Preprocessing, load_images, open_images, synthetic_images


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 12),
    size=st.integers(1, 9),
    compressed=st.booleans(),
    normalised=st.booleans(),
    strided=st.booleans(),
    count=st.integers(1, 14),
    seed=st.none() | st.integers(0, 9),
)
def test_arrays_read_one_at_a_time_are_those_numpy_loads(
    total: int,
    size: int,
    compressed: bool,
    normalised: bool,
    strided: bool,
    count: int,
    seed: int | None,
) -> None:
    rng = np.random.default_rng(total)
    shape = (2 * total, 3, size, size) if normalised else (2 * total, size, size, 3)
    values = rng.integers(0, 256, shape, dtype=np.uint8)
    values = (values.astype(np.float32) if normalised else values)[:: 2 if strided else 1]
    steps = Preprocessing.for_size(size)
    with tempfile.TemporaryDirectory() as folder:
        path = save_npz(Path(folder) / "x.npz", compressed, images=values, other=np.zeros(3))
        images = open_images(path, steps, count=count, seed=seed)
        with np.load(path) as stored:
            expected = stored["images"][list(images.places)]
        assert np.array_equal(np.stack(list(images.pictures())), expected)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_memory_is_bounded_by_a_batch(tmp_path: Path, compressed: bool, normalised: bool) -> None:
    steps = Preprocessing.for_size(32)
    pixels = np.resize(np.arange(251, dtype=np.uint8), (2048, 32, 32, 3))
    whole = pixels.transpose(0, 3, 1, 2).astype(np.float32) if normalised else pixels
    path = save_npz(tmp_path / "x.npz", compressed, images=np.ascontiguousarray(whole))
    del pixels
    tracemalloc.start()
    try:
        images = open_images(path, steps)
        read = sum(len(batch) for batch in images.batches(16))
        assert images.digest
        assert len(list(open_images(path, steps, count=2).pictures())) == 2
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read == 2048
    assert peak < 4 << 20 < whole.nbytes


def test_an_array_stored_by_columns_is_refused_with_the_mend(tmp_path: Path) -> None:
    images = np.asfortranarray(numbered(3))
    path = save_npz(tmp_path / "x.npz", images=images)
    with pytest.raises(ImageError, match=r"by column.*save np\.ascontiguousarray\(images\)"):
        open_images(path, TINY)
    mended = save_npz(path, images=np.ascontiguousarray(images))
    assert open_images(mended, TINY).count == 3


def rewrite_member(path: Path, content: bytes) -> Path:
    """Another ``images.npy`` in a sound zip, checksum and all."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content)
    return path


def test_a_member_shorter_or_longer_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "x.npz", images=numbered(3))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("images.npy")
    assert open_images(rewrite_member(path, content), TINY).count == 3
    for other in (content[:-1], content + b"\0"):
        with pytest.raises(ImageError, match="is no folder and no"):
            open_images(rewrite_member(path, other), TINY)


def test_a_value_changed_on_disk_is_seen_by_the_checksum(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "x.npz", images=numbered(9, 40))
    content = bytearray(path.read_bytes())
    place = content.index(bytes([5]) * 4800)
    content[place] = 77
    path.write_bytes(content)
    for images in (open_images(path, CROPPED), open_images(path, CROPPED, count=1)):
        with pytest.raises(ImageError, match="is damaged: 'images' cannot be read whole"):
            list(images.batches(1))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_header_is_an_image_error_or_harmless(damage: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save_npz(Path(folder) / "x.npz", images=numbered(3))
        with zipfile.ZipFile(path) as archive:
            content = bytearray(archive.read("images.npy"))
        for place, value in damage:
            content[place] = value
        rewrite_member(path, bytes(content))
        with suppress(ImageError):
            assert sum(len(batch) for batch in open_images(path, TINY).batches(2)) > 0


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ("(-1, 4, 4, 3)", "is no folder and no"),
        ("(1, 100000, 100000, 3)", "is no folder and no"),
        ("(1, -4, -4, 3)", "expected uint8"),
        ("(-1, -4, 4, 3)", "expected uint8"),
    ],
)
def test_an_impossible_shape_is_refused(tmp_path: Path, shape: str, problem: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with pytest.raises(ImageError, match=problem):
        open_images(rewrite_member(tmp_path / "x.npz", head + bytes(48)), TINY)


def test_pictures_beyond_all_bounds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_npz(tmp_path / "x.npz", images=numbered(2))
    monkeypatch.setattr("dynexport.images.arrays.LARGEST_PICTURE", 16)
    assert open_images(path, TINY).count == 2
    monkeypatch.setattr("dynexport.images.arrays.LARGEST_PICTURE", 15)
    with pytest.raises(ImageError, match="expected uint8"):
        open_images(path, TINY)


def test_synthetic_images_are_a_set_like_any_other() -> None:
    images = open_images(None, TINY, count=5)
    assert (images.synthetic, images.labels, images.described) == (True, None, "5 synthetic images")
    drawn = synthetic_images(5, TINY.img_size)
    assert np.array_equal(np.stack(list(images.pictures())), drawn)
    assert np.array_equal(load_images(None, 5, TINY), drawn)
    batches = list(images.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate(batches), TINY.to_input(drawn))
    first, second = images.split(0.4)
    assert np.array_equal(np.stack(list(second.pictures())), drawn[list(second.places)])
    assert sorted(first.places + second.places) == list(range(5))
    assert images.digest == open_images(None, TINY, count=5).digest
    assert images.digest != open_images(None, TINY, count=5, seed=1).digest
    assert open_images(None, TINY).count == 64
    with pytest.raises(ImageError, match="lie in no file: give a folder of images"):
        _ = images.source
    with pytest.raises(ImageError, match="8 images were asked for, at least 16 are needed"):
        open_images(None, TINY, count=8, at_least=16)


def test_a_set_says_what_it_is(tmp_path: Path) -> None:
    images = open_images(save_npz(tmp_path / "digits.npz", images=numbered(10)), TINY, count=4)
    assert (images.synthetic, images.described) == (False, "4 images of digits.npz")
