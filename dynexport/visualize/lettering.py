"""What is written in pictures: fonts, and how high lines are."""

from __future__ import annotations

from pathlib import Path

from PIL import ImageFont

from dynexport.errors import InputError


def line_of(text: int) -> int:
    """From one line to the next in a font of this size."""
    return round(1.35 * text)


def class_height(text: int) -> int:
    """Of one class: its name, and the bar of its probability."""
    return line_of(text) + text // 2 + 4


def open_font(file: Path | None, size: int) -> ImageFont.FreeTypeFont:
    """A font of this size, Pillow's own where no file is given.

    So a picture needs none of the machine's; InputError if the file is no font.
    """
    if file is None:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # else Pillow was built without FreeType
        return font
    try:
        return ImageFont.truetype(str(file), size)
    except OSError:
        raise InputError(f"{file} is no font that can be read: give a .ttf or .otf file") from None
