"""The one style of all figures, and figures as files."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from privbench.scoring import registered_metric

__all__ = [
    "COLUMN_WIDTH",
    "COMBINATIONS",
    "LOOKS",
    "TEXT_WIDTH",
    "Look",
    "coloured_look",
    "figure_bytes",
    "figure_png",
    "literal_legend",
    "look",
    "metric_label",
    "styled",
]

COLUMN_WIDTH = 3.3
"""One column of a two-column paper, in inches."""
TEXT_WIDTH = 6.8
"""Both columns, in inches."""


@dataclass(frozen=True)
class Look:
    """How one series is drawn. Marker, filling and dashes tell it from the others without its colour.

    Attributes:
        colour: One of the style's cycle, which is safe for the colour-blind.
        marker: Matplotlib's name of it.
        filled: Whether the marker is filled.
        dashes: Of a line, as matplotlib takes them.
    """

    colour: str
    marker: str
    filled: bool
    dashes: Any

    @property
    def points(self) -> dict[str, Any]:
        """Keyword arguments of a series of markers."""
        face = self.colour if self.filled else "white"
        return {"color": self.colour, "marker": self.marker, "markerfacecolor": face, "linestyle": "none"}

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of a series of joined markers."""
        return {**self.points, "linestyle": self.dashes, "linewidth": 1.1}


_MARKERS = "osD^v*PX<>"
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))
_COLOURS = 7
LOOKS = 2 * len(_MARKERS)
"""So many series of markers differ without colour; lines repeat their dashes sooner and differ by the marker."""


def look(place: int) -> Look:
    """The look of a series by its place in the legend."""
    filled = place // len(_MARKERS) % 2 == 0
    return Look(f"C{place % _COLOURS}", _MARKERS[place % len(_MARKERS)], filled, _DASHES[place % len(_DASHES)])


_COMBINATIONS = (
    *((0, "o"), (1, "s"), (2, "D"), (3, "^"), (4, "X"), (5, "v"), (6, "*")),
    *((0, "P"), (1, "<"), (2, ">"), (3, "o"), (4, "o"), (5, "s"), (6, "^")),
    *((0, "^"), (1, "*"), (2, "o"), (3, "X"), (4, "v"), (5, "*"), (6, "s")),
)
"""Colour and marker; no marker returns within the first ten, and none within a colour or those that look like it."""
COMBINATIONS = len(_COMBINATIONS)
"""So many series differ in colour or marker, the first ten of them without colour."""


def coloured_look(place: int) -> Look:
    """The look of a series by its place where filling means something else; filled."""
    colour, marker = _COMBINATIONS[place % COMBINATIONS]
    return Look(f"C{colour}", marker, True, "-")


def metric_label(name: str) -> str:
    """A metric as an axis names it: name, unit, and which way more leaks.

    Raises:
        UserError: There is no such metric.
    """
    metric = registered_metric(name)
    unit = f", {metric.unit}" if metric.unit else ""
    first, *rest = name.split("_")
    return f"{'-'.join([first.upper(), *rest])}{unit} ({'higher' if metric.higher_is_leakier else 'lower'}: more leaked)"


@contextmanager
def styled() -> Iterator[None]:
    """Applies the style inside the block and leaves matplotlib's settings as they were."""
    with as_file(files("privbench.plots") / "style.mplstyle") as path, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(path, use_default_template=False))
        yield


def literal_legend(axes: Axes, *, size: float | None = None) -> None:
    """A legend to the right of the axes; names stand as they are, a dollar sign in them starts no formula."""
    for text in axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=size).get_texts():
        text.set_parse_math(False)


_WITHOUT_SOFTWARE = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
"""Without the name and version of the software, and the time, the bytes depend on the picture alone."""


def figure_bytes(figure: Figure, form: str) -> bytes:
    """A figure as the content of a file; equal figures give equal bytes.

    Args:
        figure: What to draw.
        form: `png`, `pdf` or `svg`.
    """
    buffer = io.BytesIO()
    with styled(), mpl.rc_context({"svg.hashsalt": "privbench"}):
        figure.savefig(buffer, format=form, metadata=_WITHOUT_SOFTWARE[form])
    return buffer.getvalue()


def figure_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file; equal figures give equal bytes."""
    return figure_bytes(figure, "png")
