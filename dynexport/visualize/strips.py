"""Strips: a row of tiles for each image, with titles, scores and classes, in one picture."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dynexport.errors import InputError
from dynexport.files import existing_file
from dynexport.formats.metadata import Metadata
from dynexport.images import ImageSize
from dynexport.schedule import format_ratios
from dynexport.visualize.drawing import (
    TILE,
    UNRANKED,
    Colour,
    View,
    colour_scores,
    dim_dropped,
    enlarge,
    viridis,
)
from dynexport.visualize.lettering import class_height, line_of, open_font
from dynexport.visualize.look import drawn_of

LARGEST_SIDE = 65_000
"""Pixels: a JPEG holds little more."""

PAGE: Colour = (255, 255, 255)
INK: Colour = (32, 33, 36)
FAINT: Colour = (95, 99, 104)
BAR: Colour = (0, 114, 178)


@dataclass(frozen=True)
class Layout:
    """Measures of strips, pixels.

    tile    height and width of a tile; gap: between two
    column  from one tile to the next; panel: width of what is written beside them
    height  of the tiles of one image and what is beside them
    stages  how many; heat: whether there are scores below
    text    size of the font, large that of the heading
    file    of the font; None for Pillow's, which knows ASCII alone
    """

    tile: ImageSize
    gap: int
    column: int
    panel: int
    height: int
    stages: int
    heat: bool
    text: int
    file: Path | None

    @property
    def width(self) -> int:
        return self.gap + (1 + self.stages) * self.column + self.panel

    @property
    def line(self) -> int:
        """From one line of text to the next."""
        return line_of(self.text)

    @property
    def font(self) -> ImageFont.FreeTypeFont:
        return open_font(self.file, self.text)

    @property
    def large(self) -> ImageFont.FreeTypeFont:
        return open_font(self.file, round(1.2 * self.text))


def draw_strips(
    views: Sequence[View],
    metadata: Metadata,
    *,
    title: str = "",
    tile: int = TILE,
    font: str | Path | None = None,
) -> Image.Image:
    """A row for each view, under a heading that tells the model and what was dimmed.

    title  what to call the model; by default its variant
    tile   longer side of a tile at most, pixels: smaller images are enlarged by a whole factor,
           larger ones stay as they are
    font   a TrueType or OpenType file, for names that are not in ASCII

    InputError where there are no views, where the picture would be too large for a file, or where
    tokens form no grid.
    """
    if not views:
        raise InputError("there is no image to draw: give one")
    layout = _layout_for(views[0], metadata, tile, font, len(views))
    parts = [_draw_heading(metadata, layout, title), _draw_titles(metadata, layout)]
    return _stack([*parts, *(_draw_row(view, metadata, layout) for view in views)])


def draw_strip(
    view: View, metadata: Metadata, *, tile: int = TILE, font: str | Path | None = None
) -> Image.Image:
    """One image: the original and each stage with the dropped patches dimmed, under their titles.

    Below them the scores, where the view holds them; beside them name and classes.
    """
    layout = _layout_for(view, metadata, tile, font, 1)
    return _stack([_draw_titles(metadata, layout), _draw_row(view, metadata, layout)])


def plan_layout(
    metadata: Metadata,
    *,
    scores: bool,
    classes: int,
    tile: int = TILE,
    font: str | Path | None = None,
    images: int = 1,
) -> Layout:
    """Measures for so many images and classes; InputError as `draw_strips` raises it."""
    require_grid(metadata)
    file = None if font is None else existing_file(font, "a TrueType or OpenType font")
    size = metadata.preprocessing.img_size
    factor = max(1, tile // max(size))
    shown = ImageSize(factor * size.height, factor * size.width)
    gap, text = max(4, max(shown) // 28), min(20, max(12, max(shown) // 16))
    letters = open_font(file, text)
    widest = max(letters.getlength(line) for title in _titles(metadata) for line in title)
    heat = scores and len(metadata.keep_counts) > 0
    beside = line_of(text) + classes * class_height(text)
    layout = Layout(
        tile=shown,
        gap=gap,
        column=max(shown.width, math.ceil(widest) + text // 2) + gap,
        panel=17 * text,
        height=max(2 * shown.height + gap if heat else shown.height, beside),
        stages=len(metadata.keep_counts),
        heat=heat,
        text=text,
        file=file,
    )
    tall = images * (layout.height + 2 * gap) + 6 * layout.line
    if max(tall, layout.width) > LARGEST_SIDE:
        raise InputError(
            f"{images} images make a picture of {layout.width:,} x {tall:,} pixels, and a file "
            f"holds {LARGEST_SIDE:,} a side: give fewer images, as with `count`"
        )
    return layout


def require_grid(metadata: Metadata) -> tuple[int, int]:
    """Rows and columns of a model's patches; InputError where they form none."""
    if metadata.grid is None:
        raise InputError(f"the model has {metadata.num_tokens} tokens, which form no grid to draw")
    return metadata.grid


def _layout_for(
    view: View, metadata: Metadata, tile: int, font: str | Path | None, images: int
) -> Layout:
    scores, classes = bool(view.scores), len(view.classes)
    return plan_layout(
        metadata, scores=scores, classes=classes, tile=tile, font=font, images=images
    )


def _draw_heading(metadata: Metadata, layout: Layout, title: str) -> Image.Image:
    """The model's name, how much it keeps, and what is grey."""
    sheet, pen = _blank(layout, 2 * layout.line + 2 * layout.gap)
    ratios = f" at {format_ratios(metadata.ratios)}" if metadata.ratios else ", dense"
    what = f"{metadata.variant}{ratios}"
    lost = "patches dropped so far" if metadata.selection.nested else "patches on the fast path"
    legend = f"grey: {lost}" if metadata.keep_counts else "nothing is dropped"
    if title:
        legend = f"{what}; {legend}"
    at, room = layout.gap, layout.width - 2 * layout.gap
    pen.text((at, at), shorten(title or what, layout.large, room, layout), INK, layout.large)
    below = at + round(1.2 * layout.line)
    pen.text((at, below), shorten(legend, layout.font, room, layout), FAINT, layout.font)
    return sheet


def _draw_titles(metadata: Metadata, layout: Layout) -> Image.Image:
    """Above each column what it is, and how many tokens are left."""
    sheet, pen = _blank(layout, 2 * layout.line + layout.gap)
    for place, (above, below) in enumerate(_titles(metadata)):
        left, top = layout.gap + place * layout.column, layout.gap // 2
        pen.text((left, top), above, INK, layout.font)
        pen.text((left, top + layout.line), below, FAINT, layout.font)
    return sheet


def _titles(metadata: Metadata) -> tuple[tuple[str, str], ...]:
    size, tokens = metadata.preprocessing.img_size, metadata.num_tokens
    stages = (
        (f"stage {stage}", f"{count} of {tokens}, {count / tokens:.0%}")
        for stage, count in enumerate(metadata.keep_counts, start=1)
    )
    channels = drawn_of(metadata.preprocessing.channels)
    return (("input", f"{size.width} x {size.height}{channels}"), *stages)


def _draw_row(view: View, metadata: Metadata, layout: Layout) -> Image.Image:
    """The tiles of one image, and what is written beside them."""
    below, grid = layout.tile.height + layout.gap, require_grid(metadata)
    sheet, pen = _blank(layout, layout.height + (2 if layout.heat else 1) * layout.gap)
    large = enlarge(view.picture, max(layout.tile))
    tiles = [large, *(dim_dropped(large, kept, grid) for kept in view.kept)]
    for place, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (layout.gap + place * layout.column, 0))
    for place, (scores, kept) in enumerate(zip(view.scores, view.kept, strict=False), start=1):
        heat = Image.fromarray(colour_scores(scores, kept, grid, layout.tile))
        sheet.paste(heat, (layout.gap + place * layout.column, below))
    if layout.heat:
        unranked = any(bool(np.isnan(scores).any()) for scores in view.scores)
        _draw_scale(sheet, pen, layout, below, unranked)
    _draw_panel(pen, view, layout)
    return sheet


def _draw_scale(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, layout: Layout, top: int, unranked: bool
) -> None:
    """What the colours of a heat map mean."""
    font, text, left = layout.font, layout.text, layout.gap
    pen.text((left, top), "score", INK, font)
    bar = viridis(np.tile(np.linspace(0.0, 1.0, layout.tile.width), (text, 1)))
    top += layout.line
    sheet.paste(Image.fromarray(bar), (left, top))
    top += text + 2
    pen.text((left, top), "low", FAINT, font)
    pen.text((left + layout.tile.width, top), "high", FAINT, font, anchor="ra")
    top += round(1.5 * layout.line)
    if unranked and top + text <= layout.height:
        pen.rectangle((left, top, left + text, top + text), UNRANKED)
        pen.text((left + 2 * text, top), "not ranked", FAINT, font)


def _draw_panel(pen: ImageDraw.ImageDraw, view: View, layout: Layout) -> None:
    """The image's name, and each class with a bar of its probability."""
    font, text = layout.font, layout.text
    left, room = layout.gap + (1 + layout.stages) * layout.column, layout.panel - 2 * layout.gap
    top = 0
    if view.name:
        pen.text((left, top), shorten(view.name, font, room, layout), FAINT, font)
        top += layout.line
    for name, probability in view.classes:
        share = f"{probability:.1%}"
        pen.text((left + room, top), share, INK, font, anchor="ra")
        space = room - font.getlength(share) - text
        pen.text((left, top), shorten(name, font, space, layout), INK, font)
        low, high = top + layout.line, top + layout.line + text // 2
        pen.rectangle((left, low, left + room, high), UNRANKED)
        if filled := round(room * probability):
            pen.rectangle((left, low, left + filled, high), BAR)
        top += class_height(text)


def shorten(text: str, font: ImageFont.FreeTypeFont, room: float, layout: Layout) -> str:
    """A text on one line that is no wider than ``room``, cut in the middle where it must be.

    Letters that Pillow's font does not know lose their accents, or become question marks.
    """
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    if layout.file is None:
        letters = unicodedata.normalize("NFKD", text)
        bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
        text = bare.encode("ascii", "replace").decode()
    if font.getlength(text) <= room:
        return text
    for kept in range(len(text) - 1, 0, -1):
        cut = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
        if font.getlength(cut) <= room:
            return cut
    return ""


def _blank(layout: Layout, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (layout.width, height), PAGE)
    return sheet, ImageDraw.Draw(sheet)


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width, one below the other."""
    sheet = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), PAGE)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet
