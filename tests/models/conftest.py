"""A family at a time."""

from __future__ import annotations

import pytest
from made.families import TINY


@pytest.fixture(params=TINY)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)
