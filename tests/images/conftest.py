"""The same images in every form they may come in."""

from __future__ import annotations

from pathlib import Path

import pytest
from made.pictures import numbered, save_folder, save_npz


@pytest.fixture(params=["folder", "npz"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Ten numbered pictures."""
    if request.param == "folder":
        return save_folder(tmp_path / "a b", [f"{n}.png" for n in range(10)])
    return save_npz(tmp_path / "a b.npz", images=numbered(10))
