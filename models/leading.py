"""Tokens that lead a vision transformer's patches: a class token, a distillation token, registers.

They are the first rows throughout and are never dropped. Each kind is a parameter (1, L, C).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dynexport.errors import ModelError
from dynexport.images.size import ImageSize
from dynexport.models.protocol import Hints, Shapes, read_size, shape_of
from dynexport.models.untold import Assumption

LEADING = ("cls_token", "dist_token", "reg_token")
"""Parameters that hold them, in the order of their rows."""


def read_leading(shapes: Shapes) -> tuple[int, ...]:
    """How many tokens each of `LEADING` holds."""
    return tuple(shape_of(shapes, name, 3)[1] if name in shapes else 0 for name in LEADING)


def read_positions(
    shapes: Shapes, counts: Sequence[int], patch_size: int, hints: Hints
) -> tuple[ImageSize, int]:
    """The image size that ``pos_embed`` tells, and how many leading tokens have no place in it.

    ``counts`` are `read_leading`'s. All have a place (timm), or registers have none (DINOv2), or
    patches alone have one (timm's no_embed_class). The number of rows tells which.
    """
    rows, leading = shape_of(shapes, "pos_embed", 3)[1], sum(counts)
    ways = {n: _size_of(rows - leading + n, patch_size, hints) for n in (0, counts[-1], leading)}
    found = {unplaced: size for unplaced, size in ways.items() if size is not None}
    told = {unplaced: size for unplaced, size in found.items() if _is_told(size, hints)}
    fitting = told or found
    if not fitting:
        read_size(rows - leading, patch_size, hints)  # says what is wrong
    if len(fitting) > 1:
        patches = " or ".join(str(rows - leading + unplaced) for unplaced in fitting)
        raise ModelError(
            f"tensor 'pos_embed' has {rows} rows, which stand for {patches} patches, as {leading} "
            "tokens lead them: say the size of its images with `img_size`"
        )
    ((unplaced, size),) = fitting.items()
    return size, unplaced


def assumed_positions(config: Any, hints: Hints) -> Iterator[Assumption]:
    """Leading tokens without a place in ``pos_embed``, where only its number of rows tells so."""
    if config.unplaced and not _is_told(config.img_size, hints):
        tokens = f"{config.unplaced} leading token" + "s" * (config.unplaced > 1)
        yield Assumption(f"{tokens} without a position embedding", "img_size")


def _size_of(patches: int, patch_size: int, hints: Hints) -> ImageSize | None:
    try:
        return read_size(patches, patch_size, hints)
    except ModelError:
        return None


def _is_told(size: ImageSize, hints: Hints) -> bool:
    return size in (hints.get("trained_size"), hints.get("img_size"))
