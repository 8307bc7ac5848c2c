"""The digest of a set of images: the same for the same images alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from made.pictures import TINY, numbered, save_folder, save_npz

from dynexport.images import open_images


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
