"""Images to batches: which are chosen, in what order, with which labels, in how much memory."""

from __future__ import annotations

import hashlib
import os
import tempfile
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dynexport.errors import ImageError
from dynexport.images import ImageSet, Preprocessing, load_images, open_images, synthetic_images

TINY = Preprocessing.for_size(4)
"""Takes pictures of 4 x 4 pixels as they are."""

CROPPED = Preprocessing.for_size(40)


def numbered(total: int, size: int = 4) -> NDArray[np.uint8]:
    """Picture n is of colour n throughout."""
    return np.broadcast_to(
        np.arange(total, dtype=np.uint8)[:, None, None, None], (total, size, size, 3)
    )


def save_folder(folder: Path, names: list[str]) -> Path:
    """Pictures whose colour is their place in the list."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, dtype=np.uint8)).save(folder / name)
    return folder


def save_npz(path: Path, compressed: bool = False, **arrays: NDArray[Any]) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[arg-type]
    return path


def colours(images: ImageSet) -> list[int]:
    """Which of the numbered pictures these are."""
    return [int(picture.flat[0]) for picture in images.pictures()]


@pytest.fixture(params=["folder", "npz"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Ten numbered pictures."""
    if request.param == "folder":
        return save_folder(tmp_path / "a b", [f"{n}.png" for n in range(10)])
    return save_npz(tmp_path / "a b.npz", images=numbered(10))


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (5, [5, 5]), (64, [10])]
)
def test_batches_are_full_but_for_the_last(source: Path, size: int, sizes: list[int]) -> None:
    batches = list(open_images(source, TINY).batches(size))
    assert [len(batch) for batch in batches] == sizes
    expected = TINY.normalise(np.ascontiguousarray(numbered(10)))
    assert batches[0].dtype == np.float32
    assert np.array_equal(np.concatenate(batches), expected)


def test_batches_can_be_read_again_and_beside_each_other(source: Path) -> None:
    images = open_images(source, TINY)
    for first, second in zip(images.batches(3), images.batches(3), strict=True):
        assert np.array_equal(first, second)
    assert sum(len(batch) for batch in images.batches(3)) == 10


def test_a_batch_of_none_is_refused(source: Path) -> None:
    with pytest.raises(ImageError, match="a batch of 0 images was asked for"):
        next(open_images(source, TINY).batches(0))


def test_pictures_go_through_the_models_own_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    cropped = np.stack([CROPPED.crop(Image.fromarray(image)) for image in pixels])
    images = open_images(save_npz(tmp_path / "x.npz", images=pixels), CROPPED)
    assert np.array_equal(next(images.batches(3)), CROPPED.normalise(cropped))


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
@pytest.mark.parametrize("compressed", [False, True])
def test_normalised_arrays_are_passed_on_as_they_are(
    tmp_path: Path, dtype: str, compressed: bool
) -> None:
    values = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(dtype)
    path = save_npz(tmp_path / "x.npz", compressed, images=values)
    (batch,) = open_images(path, TINY).batches(8)
    assert batch.dtype == np.float32
    assert np.array_equal(batch, values)
    assert np.array_equal(load_images(path, 8, TINY), values)
    assert load_images(path, 8, TINY).dtype == np.float32


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_normalised_arrays_must_hold_numbers(tmp_path: Path, wrong: float) -> None:
    values = np.zeros((3, 3, 4, 4), dtype=np.float32)
    values[1, 2, 3, 0] = wrong
    images = open_images(save_npz(tmp_path / "x.npz", images=values), TINY)
    with pytest.raises(ImageError, match=r"x\.npz: images\[1\] holds values that are no numbers"):
        list(images.batches(8))


def test_normalised_arrays_must_have_the_models_size(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "x.npz", images=np.zeros((1, 3, 4, 5), dtype=np.float32))
    with pytest.raises(ImageError, match=r"float32 \[1, 3, 4, 5\], normalised.* 4 x 4"):
        open_images(path, TINY)


# ---------------------------------------------------------------- which are chosen


def test_all_are_taken_unless_a_count_is_given(source: Path) -> None:
    assert open_images(source, TINY).count == 10
    assert colours(open_images(source, TINY)) == list(range(10))
    assert colours(open_images(source, TINY, count=4)) == [0, 2, 5, 7]
    assert open_images(source, TINY, count=99).count == 10


@pytest.mark.parametrize("count", [1, 4, 10, 99])
def test_a_seed_draws_at_random_and_the_order_stays(source: Path, count: int) -> None:
    found = [colours(open_images(source, TINY, count=count, seed=seed)) for seed in range(30)]
    assert all(one == sorted(set(one)) and len(one) == min(count, 10) for one in found)
    assert found[7] == colours(open_images(source, TINY, count=count, seed=7))
    if count < 10:
        assert len({number for one in found for number in one}) > 5


def test_too_few_images_are_counted(source: Path) -> None:
    assert open_images(source, TINY, at_least=10).count == 10
    with pytest.raises(ImageError) as error:
        open_images(source, TINY, at_least=16)
    assert str(error.value) == f"{source} holds 10 images, at least 16 are needed"
    with pytest.raises(ImageError, match="8 images were asked for, at least 9 are needed"):
        open_images(source, TINY, count=8, at_least=9)
    with pytest.raises(ImageError, match="0 images were asked for, at least 1 are needed"):
        open_images(source, TINY, count=0)


@pytest.mark.parametrize(
    ("total", "share", "apart"),
    [(10, 0.25, 2), (10, 0.5, 5), (2, 0.01, 1), (2, 0.99, 1), (9, 1 / 3, 3), (10, 0.9, 9)],
)
def test_a_share_is_set_apart_evenly(tmp_path: Path, total: int, share: float, apart: int) -> None:
    images = open_images(save_npz(tmp_path / "x.npz", images=numbered(total)), TINY)
    first, second = images.split(share)
    assert second.count == apart
    assert sorted(colours(first) + colours(second)) == list(range(total))
    gaps = np.diff(colours(second))
    assert not len(gaps) or gaps.max() - gaps.min() <= 1
    assert first.digest != second.digest


def test_what_cannot_be_split_is_refused(source: Path) -> None:
    with pytest.raises(ImageError, match=r"a share of 1\.0 was asked for"):
        open_images(source, TINY).split(1.0)
    with pytest.raises(ImageError, match="gives 1 image, at least 2 are needed"):
        open_images(source, TINY, count=1).split(0.5)


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cat/a.png", "cat/b.png", "dog/x y/a.png"], [0, 0, 1]),
        (["10/a.png", "2/a.png", "9/a.png"], [0, 1, 2]),  # by name, as torchvision has it
        (["cat/a.png", "dog/a.png", "x.png"], None),
        (["cat/a.png", "cat/b.png"], None),
        (["a.png", "b.png"], None),
    ],
)
def test_class_folders_are_labels(
    tmp_path: Path, names: list[str], labels: list[int] | None
) -> None:
    found = open_images(save_folder(tmp_path, names), TINY).labels
    assert (None if found is None else found.tolist()) == labels


def test_a_class_without_pictures_keeps_its_number_and_a_tools_folder_has_none(
    tmp_path: Path,
) -> None:
    save_folder(tmp_path, ["a/1.png", "c/1.png"])
    for name in ("b", ".git", "__MACOSX"):
        (tmp_path / name).mkdir()
    for name in ("a/._1.png", "__MACOSX/1.png", ".git/1.png"):
        (tmp_path / name).write_text("no picture")
    found = open_images(tmp_path, TINY)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 2]
    assert colours(found) == [0, 1]


def test_labels_follow_the_choice(tmp_path: Path) -> None:
    labels = np.array([5, 1, 4, 1, 3, 9, 2, 6, 5, 3], dtype=np.int16)
    path = save_npz(tmp_path / "x.npz", images=numbered(10), labels=labels)
    images = open_images(path, TINY, count=4, seed=3)
    assert images.labels is not None
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [int(labels[number]) for number in colours(images)]
    first, second = images.split(0.5)
    assert first.labels is not None
    assert second.labels is not None
    assert sorted([*first.labels, *second.labels]) == sorted(images.labels)
    assert open_images(save_npz(path, images=numbered(10)), TINY).labels is None


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (np.zeros(3, dtype=np.int64), "3 labels for 2 images: expected one each"),
        (np.zeros(2), r"'labels' is float64 \[2\], expected whole numbers \(N,\)"),
        (np.zeros((2, 1), dtype=np.int64), r"'labels' is int64 \[2, 1\]"),
        (np.array(["cat", "dog"]), r"'labels' is <U3 \[2\]"),
    ],
)
def test_labels_of_another_kind_are_refused(
    tmp_path: Path, labels: NDArray[Any], problem: str
) -> None:
    path = save_npz(tmp_path / "x.npz", images=numbered(2), labels=labels)
    with pytest.raises(ImageError, match=problem):
        open_images(path, TINY)


# ---------------------------------------------------------------- what is wrong in a folder


def test_a_linked_folder_is_searched_once(tmp_path: Path) -> None:
    save_folder(tmp_path / "far", ["1.png", "2.png"])
    near = save_folder(tmp_path / "near", ["a/1.png"])
    (near / "b").symlink_to(tmp_path / "far")
    (near / "b" / "back").symlink_to(near)  # a loop
    images = open_images(near, TINY)
    assert [path.relative_to(near).as_posix() for path in images.images.files] == [  # type: ignore[union-attr]
        "a/1.png",
        "b/1.png",
        "b/2.png",
    ]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]


def test_every_file_that_is_no_picture_is_counted_before_the_work(tmp_path: Path) -> None:
    save_folder(tmp_path, [f"{n}.png" for n in range(10)])
    for name in "13579":
        (tmp_path / f"{name}.png").write_text("no picture")
    with pytest.raises(ImageError) as error:
        open_images(tmp_path, TINY)
    assert str(error.value) == (
        "5 of 10 images cannot be used, remove or replace them: "
        f"{tmp_path / '1.png'} is not a readable image; "
        f"{tmp_path / '3.png'} is not a readable image; "
        f"{tmp_path / '5.png'} is not a readable image; and 2 more"
    )
    assert open_images(tmp_path, TINY, count=5).count == 5  # only those chosen count


def test_pictures_found_to_be_cut_short_are_all_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8))
        picture.save(tmp_path / f"{number}.jpg")
    for number in (2, 5):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[:-600])
    images = open_images(tmp_path, CROPPED)  # the heads are sound
    batches = images.batches(2)
    assert len(next(batches)) == 2
    with pytest.raises(ImageError, match=r"2 of 6 images .*2\.jpg is not .*; .*5\.jpg is not"):
        next(batches)


def test_a_picture_too_narrow_to_be_resized_is_refused_before_the_memory_is_taken(
    tmp_path: Path,
) -> None:
    Image.new("L", (1, 60000)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match=r"x\.png is 1 x 60000: too narrow"):
        open_images(tmp_path, Preprocessing.for_size(224))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    save_folder(tmp_path, ["a/1.png", "b/1.png"])
    (tmp_path / "b").chmod(0)
    with pytest.raises(ImageError, match="b cannot be read: check its permissions"):
        open_images(tmp_path, TINY)


# ---------------------------------------------------------------- the digest


def test_the_digest_is_of_what_the_images_hold(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    first = open_images(save_folder(tmp_path / "1", names), TINY)
    moved = open_images(save_folder(tmp_path / "2", ["x/1.png", "x/2.png", "y/3.png"]), TINY)
    assert first.digest == moved.digest == open_images(first.source, TINY).digest
    assert len(first.digest) == len(hashlib.sha256().hexdigest())
    others = [
        open_images(first.source, TINY, count=2),
        open_images(save_folder(tmp_path / "3", ["b.png", "a.png", "c.png"]), TINY),
        open_images(save_npz(tmp_path / "x.npz", images=numbered(3)), TINY),
        open_images(save_npz(tmp_path / "y.npz", images=numbered(4)[1:]), TINY),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 5


# ---------------------------------------------------------------- arrays read one at a time


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
