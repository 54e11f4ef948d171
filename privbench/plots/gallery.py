"""The gallery for a page of a paper: the same images throughout, one row per case under each defense, at most one page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from privbench.drawing.image_grid import Pixels, place_image
from privbench.drawing.style import PAPER, SMALLEST, Paper, add_caption, styled
from privbench.plots.gallery_cases import GalleryBlock, gallery_cases
from privbench.plots.request import Drawn, FigureRequest

__all__ = ["draw", "gallery_figure"]

_DPI = 200
_PAGE = 9.0
"""Height of a page without its margins, in inches."""
_LABEL = 1.1
_DOTS = (84, 156)
"""The smallest side of an image that a score fits under, and the largest, in dots."""
_GAP = 0.04
_CAPTION = 0.13
_BLOCK_GAP = 0.08
_LINE = 0.125
_MANY = 6
"""From more rows on there are two columns."""


@dataclass(frozen=True)
class _Layout:
    """Where blocks go: the side of an image, the columns of the page, and which blocks stand in each."""

    cell: float
    columns: tuple[tuple[GalleryBlock, ...], ...]
    height: float


def gallery_figure(blocks: Sequence[GalleryBlock], *, caption: str, paper: Paper = PAPER) -> tuple[Figure, int]:
    """Draws blocks of rows, in two columns where that fits a page better.

    Args:
        blocks: The originals first, where they are at hand; all images of one size.
        caption: Of the figure.
        paper: What for.

    Returns:
        The figure, and how many attacks were left out because a page does not hold them: those that leak least. Small images
        are enlarged by whole factors, so that nothing is smoothed; larger ones are reduced to what 200 dots per inch show.
    """
    count = len(blocks[0].rows[0].images)
    wanted = _attacks(blocks)
    head = _LINE * (1 + len(wrap(caption, paper.letters()))) if paper.captioned else 0.02
    while (layout := _layout(blocks, count, paper, head)).height > _PAGE and sum(len(block.rows) for block in blocks) > 2:
        blocks = _without_least(blocks)
    left_out = wanted - _attacks(blocks)
    column_width = paper.width / len(layout.columns)
    with styled(paper):
        figure = Figure(figsize=(paper.width, layout.height), dpi=_DPI)
        for number, column in enumerate(layout.columns):
            y = head
            for block in column:
                for row in block.rows:
                    _draw_row(figure, row.label, row.images, row.captions, (number * column_width, y), layout.cell)
                    y += _row_height(bool(row.captions), layout.cell)
                y += _BLOCK_GAP
        add_caption(figure, caption, paper)
    return figure, left_out


def _attacks(blocks: Sequence[GalleryBlock]) -> int:
    return sum(row.leakage is not None for block in blocks for row in block.rows)


def _layout(blocks: Sequence[GalleryBlock], count: int, paper: Paper, head: float) -> _Layout:
    """The largest images with which all rows fit a page, else the smallest."""
    # Two columns where there are many rows; of what fits the width the largest images that fit the height, else the smallest.
    cells = _cells(blocks)
    many = sum(len(block.rows) for block in blocks) > _MANY
    tried = []
    for wide in (2, 1) if many and _width(count, cells[-1]) * 2 <= paper.width else (1,):
        for cell in (cell for cell in cells if cell == cells[-1] or _width(count, cell) * wide <= paper.width):
            columns = _split(blocks, wide, cell)
            tried.append(_Layout(cell, columns, head + max(_height(column, cell) for column in columns)))
            if tried[-1].height <= _PAGE:
                return tried[-1]
    return min(tried, key=lambda layout: layout.height)


def _width(count: int, cell: float) -> float:
    return _LABEL + count * (cell + _GAP)


def _cells(blocks: Sequence[GalleryBlock]) -> list[float]:
    """Sides of an image in inches, largest first: whole multiples of its own pixels, or, of large images, fixed ones."""
    side = max(image.shape[0] for block in blocks for row in block.rows for image in row.images if image is not None)
    low, high = _DOTS
    dots = [factor * side for factor in range(high // side, 0, -1) if factor * side >= low] or [high, 120, low]
    return [count / _DPI for count in dots]


def _height(column: Sequence[GalleryBlock], cell: float) -> float:
    return sum(_row_height(bool(row.captions), cell) for block in column for row in block.rows) + _BLOCK_GAP * len(column)


def _row_height(captioned: bool, cell: float) -> float:
    return cell + _GAP + (_CAPTION if captioned else 0)


def _split(blocks: Sequence[GalleryBlock], columns: int, cell: float) -> tuple[tuple[GalleryBlock, ...], ...]:
    """One column, or two of about the same height; the originals stand above the first."""
    if columns < 2 or len(blocks) < 4:
        return (tuple(blocks),)
    heights = [max(_height(part, cell) for part in (blocks[:place], blocks[place:])) for place in range(1, len(blocks))]
    place = 1 + heights.index(min(heights))
    return tuple(blocks[:place]), tuple(blocks[place:])


def _without_least(blocks: Sequence[GalleryBlock]) -> list[GalleryBlock]:
    """Without the row that leaks least; a client's view goes with the last attack on it."""
    scored = [(row.leakage, block.name, row) for block in blocks for row in block.rows if row.leakage is not None]
    if not scored:
        return list(blocks[:-1])
    _, name, least = min(scored, key=lambda entry: entry[0])
    kept = [
        replace(block, rows=tuple(row for row in block.rows if row is not least)) if block.name == name else block
        for block in blocks
    ]
    return [block for block in kept if not block.is_attacked or any(row.leakage is not None for row in block.rows)]


def _draw_row(
    figure: Figure,
    label: str,
    images: Sequence[Pixels | None],
    captions: Sequence[str],
    corner: tuple[float, float],
    cell: float,
) -> None:
    """One row; `corner` is its upper left one, in inches from the page's."""
    width, height = figure.get_size_inches()
    left, top = corner
    middle = 1 - (top + cell / 2) / height
    label_at = ((left + _LABEL - 0.06) / width, middle)
    figure.text(*label_at, label, ha="right", va="center", fontsize=SMALLEST, parse_math=False, linespacing=1.05)
    for place, image in enumerate(images):
        # On whole pixels, or else they would be of unequal size.
        x, y = (round(value * _DPI) / _DPI for value in (left + _LABEL + place * (cell + _GAP), top))
        shown, side = _sized(image, cell)
        box = (x / width, 1 - (y + side) / height, side / width, side / height)
        place_image(figure, box, shown, absent="failed")
        if captions:
            at = ((x + cell / 2) / width, 1 - (y + cell + 0.015) / height)
            figure.text(*at, captions[place], ha="center", va="top", fontsize=SMALLEST)


def _sized(image: Pixels | None, cell: float) -> tuple[Pixels | None, float]:
    """An image in the dots of the figure, and its side in inches."""
    dots = round(cell * _DPI)
    if image is None:
        return None, cell
    side = max(image.shape[:2])
    if side > dots:
        reduced = Image.fromarray(image).resize((dots, dots), Image.Resampling.BOX)
        return np.asarray(reduced), cell
    factor = max(1, dots // side)
    return image.repeat(factor, axis=0).repeat(factor, axis=1), factor * side / _DPI


def draw(request: FigureRequest) -> Drawn:
    """The cases of the one setting with most of them."""
    found = gallery_cases(request.cases(), images=request.images, rows_by=request.rows, data=request.data)
    figure, left_out = gallery_figure(found.blocks, caption=found.caption, paper=request.paper)
    notes = list(found.notes)
    if left_out:
        notes.append(
            f"{left_out} attacks that leak least are left out, a page holds no more; choose with --rows, --images or --where"
        )
    return Drawn(figure, tuple(notes))
