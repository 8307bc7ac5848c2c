"""Height and width of what a model looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dynexport.errors import InputError


class ImageSize(NamedTuple):
    """Pixels; printed as ``224`` where it is square, else as ``224x448``, the height first."""

    height: int
    width: int

    @classmethod
    def of(cls, size: int | str | Sequence[int]) -> ImageSize:
        """A square's side, a pair, or the text of either; InputError for anything else."""
        try:
            told = str(size).lower().split("x") if isinstance(size, (int, str)) else size
            numbers = [int(side) for side in told]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) not in (1, 2) or min(numbers) < 1:
            raise InputError(
                f"image size {size!r} is not valid: write pixels, 224, or HEIGHTxWIDTH, 224x448"
            )
        return cls(numbers[0], numbers[-1])

    @property
    def square(self) -> bool:
        return self.height == self.width

    def patches(self, patch: int) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return self.height // patch, self.width // patch

    def oblong_patches(self, patch: int) -> tuple[int, int] | None:
        """`patches` of a size that is no square; None of one that is."""
        return None if self.square else self.patches(patch)

    def __str__(self) -> str:
        return str(self.height) if self.square else f"{self.height}x{self.width}"


USUAL = ImageSize(224, 224)
"""What models are trained at unless they say otherwise."""
