"""The PyTorch model a file was made from, where it is at hand: plain functions, no PyTorch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dynexport.formats.onnx_file import Exported
    from dynexport.formats.reference import ReferenceBundle

Kept = tuple[NDArray[np.int64], ...]
"""Per stage the positions kept, (B, K)."""


@dataclass(frozen=True)
class Original:
    """What can be asked of it.

    answer  its answers for images, as `ReferenceBundle` holds them, with its own choice
    replay  the same with another's choice in place of its own; None where its family's
            sparsifiers take none
    export  the float32 graph of it, made afresh
    """

    answer: Callable[[NDArray[Any]], ReferenceBundle]
    replay: Callable[[NDArray[Any], Kept], ReferenceBundle] | None
    export: Callable[[], Exported]
