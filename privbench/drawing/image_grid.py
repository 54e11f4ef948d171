"""Pictures side by side: what was private, what the client fed its model, and what the attacker made of the gradient.

Images are enlarged by whole factors with nearest neighbour, so that every pixel of the data is a square of the figure and
nothing is smoothed into looking better than it is.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from privbench.drawing.style import styled
from privbench.runner.pictures import SHOWN_IMAGES

__all__ = [
    "ComparisonRow",
    "DefenseColumn",
    "Pixels",
    "comparison_cells",
    "comparison_figure",
    "defenses_figure",
    "place_image",
]

Pixels = NDArray[np.uint8]
"""One image, `[height, width, 3]`."""

_DPI = 100
_GAP = 10
_GROUP_GAP = 12
_MARGIN = 14
_ROW_NAME = 18
_LINE = 13
_TITLE = 26
_LONGEST_NAME = 26


@dataclass(frozen=True)
class ComparisonRow:
    """One private image.

    Attributes:
        name: Name of the image.
        original: The private image.
        fed: What the client fed its model.
        reconstruction: What the attacker made of it; None where the attack failed.
        caption: The scores, up to two lines, shown under the reconstruction.
    """

    name: str
    original: Pixels
    fed: Pixels
    reconstruction: Pixels | None
    caption: str


@dataclass(frozen=True)
class DefenseColumn:
    """One defense beside others; the sequences have one entry per image.

    Attributes:
        title: The defense.
        fed: What the client fed its model.
        reconstructions: What the attacker made of it; None where the attack failed.
        captions: The scores, up to two lines, shown under each reconstruction.
    """

    title: str
    fed: Sequence[Pixels]
    reconstructions: Sequence[Pixels | None]
    captions: Sequence[str]


@dataclass(frozen=True)
class _Cell:
    image: Pixels | None
    caption: str = ""


def comparison_figure(rows: Sequence[ComparisonRow], *, title: str, side: int = 192) -> Figure:
    """Original, client's view and reconstruction of each image of one case.

    Args:
        rows: One entry per image, at least one, all of the same size.
        title: Stands above everything.
        side: An image is enlarged by the whole factor that brings it nearest to this many pixels.

    Returns:
        A figure; `figure_png` makes a file of it.
    """
    cells = [[_Cell(row.original), _Cell(row.fed), _Cell(row.reconstruction, row.caption)] for row in rows]
    heads = ["original", "what the client fed its model", "reconstruction"]
    return _gallery(cells, [row.name for row in rows], heads, groups=[], title=title, side=side)


def comparison_cells(content: bytes, images: int, side: int) -> list[tuple[Pixels, Pixels, Pixels]]:
    """Takes a picture of `comparison_figure` apart again; of one in 256 colours that is nearly exact.

    Args:
        content: The PNG file.
        images: How many images the case has; at most as many rows are in the picture.
        side: Height of an image in pixels.

    Returns:
        Original, client's view and reconstruction of each; nothing where the file is no such picture.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except OSError:
        return []
    height, width = pixels.shape[:2]
    left, top = _MARGIN + _ROW_NAME, _MARGIN + _TITLE + _LINE + 4
    shown = (width - left - 2 * _GAP - _MARGIN) // 3
    factor = shown // side
    used = height - top - _MARGIN + _GAP
    rows = next((count for count in range(min(images, SHOWN_IMAGES), 0, -1) if used % count == 0), 0)
    pitch = used // rows if rows else 0
    if factor < 1 or shown != factor * side or not shown + _GAP <= pitch <= shown + _GAP + 3 * _LINE:
        return []
    cells = []
    for row in range(rows):
        corners = [(top + row * pitch, left + column * (shown + _GAP)) for column in range(3)]
        cells.append([_reduced(pixels[y : y + shown, x : x + shown], factor) for y, x in corners])
    return [(original, fed, found) for original, fed, found in cells]


def _reduced(pixels: Pixels, factor: int) -> Pixels:
    """The mean of each enlarged pixel, which undoes dithering."""
    side = len(pixels) // factor
    means: NDArray[np.float64] = pixels.reshape(side, factor, side, factor, 3).mean(axis=(1, 3))
    return means.round().astype(np.uint8)


def defenses_figure(
    names: Sequence[str],
    originals: Sequence[Pixels],
    defenses: Sequence[DefenseColumn],
    *,
    title: str,
    side: int = 128,
) -> Figure:
    """One column of originals, then for each defense the client's view and the reconstruction.

    Args:
        names: Name of each image.
        originals: The private images, at least one, all of the same size.
        defenses: At least one.
        title: Stands above everything.
        side: An image is enlarged by the whole factor that brings it nearest to this many pixels.

    Returns:
        A figure; `figure_png` makes a file of it.
    """
    cells = [[_Cell(original)] for original in originals]
    for defense in defenses:
        shown = zip(cells, defense.fed, defense.reconstructions, defense.captions, strict=True)
        for row, fed, reconstruction, caption in shown:
            row += [_Cell(fed), _Cell(reconstruction, caption)]
    heads = ["original", *["client's view", "reconstruction"] * len(defenses)]
    groups = [(1 + 2 * place, defense.title) for place, defense in enumerate(defenses)]
    return _gallery(cells, names, heads, groups=groups, title=title, side=side)


def _gallery(
    cells: list[list[_Cell]],
    names: Sequence[str],
    heads: Sequence[str],
    *,
    groups: Sequence[tuple[int, str]],
    title: str,
    side: int,
) -> Figure:
    """Draws a table of images; `groups` are headings over two columns each, by their first column."""
    sample = next(cell.image for cell in cells[0] if cell.image is not None)
    factor = max(1, round(side / max(sample.shape[:2])))
    height, width = (factor * length for length in sample.shape[:2])
    lines = max(cell.caption.count("\n") + 1 if cell.caption else 0 for row in cells for cell in row)
    pitch_x, pitch_y = width + _GAP, height + _LINE * lines + _GAP
    left = _MARGIN + _ROW_NAME
    top = _MARGIN + _TITLE + _LINE * (2 if groups else 1) + 4
    firsts = [column for column, _ in groups]
    xs = [left + pitch_x * column + _GROUP_GAP * sum(first <= column for first in firsts) for column in range(len(heads))]
    total_width = xs[-1] + width + _MARGIN
    total_height = top + pitch_y * len(cells) - _GAP + _MARGIN
    with styled():
        figure = Figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI)

        def write(x: float, y: float, text: str, **how: Any) -> None:
            figure.text(x / total_width, 1 - y / total_height, text, **how)

        write(left, _MARGIN, title, va="top", fontsize=10, fontweight="bold")
        for column, head in enumerate(heads):
            write(xs[column] + width / 2, top - 4, head, va="bottom", ha="center", color="0.3")
        for column, group in groups:
            write(xs[column] + width + _GAP / 2, top - 4 - _LINE, group, va="bottom", ha="center", fontweight="bold")
        for place, (row, name) in enumerate(zip(cells, names, strict=True)):
            y = top + pitch_y * place
            write(left - 5, y + height / 2, _shortened(name), va="center", ha="right", rotation=90)
            for column, cell in enumerate(row):
                x = xs[column]
                box = (x / total_width, 1 - (y + height) / total_height, width / total_width, height / total_height)
                # Enlarged here and drawn one to one: matplotlib's own nearest neighbour makes pixels of unequal size.
                image = None if cell.image is None else cell.image.repeat(factor, axis=0).repeat(factor, axis=1)
                place_image(figure, box, image)
                write(x + width / 2, y + height + 3, cell.caption, va="top", ha="center", fontsize=7.5)
    return figure


def place_image(
    figure: Figure, box: tuple[float, float, float, float], image: Pixels | None, *, absent: str = "failed"
) -> None:
    """Draws an image that is as large as its box in dots; where there is none, why."""
    axes = figure.add_axes(box)
    if image is None:
        axes.set(xticks=[], yticks=[], facecolor="0.94")
        axes.spines[:].set_visible(False)
        axes.text(0.5, 0.5, absent, ha="center", va="center", color="0.4", transform=axes.transAxes)
        return
    axes.set_axis_off()
    axes.imshow(image, aspect="auto")


def _shortened(name: str) -> str:
    half = (_LONGEST_NAME - 1) // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half:]}"
