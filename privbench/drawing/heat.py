"""Heat maps with their numbers: darker means that more is given away, whatever the direction of the metric."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from privbench.drawing.style import SMALLEST

__all__ = ["draw_heat"]


def draw_heat(
    axes: Axes,
    values: NDArray[np.float64],
    texts: Sequence[Sequence[str]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    higher_is_leakier: bool,
    limits: tuple[float, float] | None = None,
) -> AxesImage:
    """Draws a heat map, its numbers and the names of its rows and columns.

    Args:
        axes: Where.
        values: `[rows, columns]`; NaN where nothing was measured, which stays white.
        texts: What stands in each cell.
        rows: Names, first one on top.
        columns: Names.
        higher_is_leakier: The direction of the metric.
        limits: Values of the lightest and the darkest colour, in the metric's order; None: those that occur.
    """
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    shown = axes.imshow(values, cmap="cividis_r" if higher_is_leakier else "cividis", vmin=low, vmax=high, aspect="auto")
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            if text:
                red, green, blue, _ = shown.cmap(shown.norm(values[row, column]))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                colour = "white" if dark else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=SMALLEST, color=colour, linespacing=1.0)
    axes.set_xticks(np.arange(len(columns)), columns)
    axes.set_yticks(np.arange(len(rows)), rows)
    for name in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        name.set_parse_math(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    return shown
