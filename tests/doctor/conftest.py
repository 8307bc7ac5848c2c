"""A folder that a doctor may look at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    pass
else:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Stands first on PYTHONPATH."""
    path = tmp_path / "fakes, 模型"
    path.mkdir()
    return path
