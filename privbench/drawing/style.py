"""The one style of all figures, the paper they are drawn for, and figures as files."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from textwrap import wrap
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from privbench import __version__
from privbench.scoring import registered_metric

__all__ = [
    "COLUMN_WIDTH",
    "LOOKS",
    "PAPER",
    "SMALLEST",
    "TEXT_WIDTH",
    "Look",
    "Paper",
    "add_caption",
    "caption_height",
    "caption_of",
    "figure_bytes",
    "figure_png",
    "literal_legend",
    "look",
    "metric_label",
    "paper_of",
    "small_png",
    "styled",
]

COLUMN_WIDTH = 3.25
"""One column of a two-column paper, in inches."""
TEXT_WIDTH = 6.8
"""Both columns, in inches."""
SMALLEST = 6.5
"""No letter of a figure is smaller, in points."""
_LETTERS = {"sans": 20, "serif": 24}
"""So many of the smallest letters stand on an inch."""
_BESIDE = 0.46
"""Share of a column's width that a label beside a plot may take."""


@dataclass(frozen=True)
class Paper:
    """What a figure is drawn for.

    Attributes:
        width: In inches; `COLUMN_WIDTH` or `TEXT_WIDTH`.
        font: `sans` or `serif`.
        captioned: Whether the caption stands in the figure; a paper has its own.
    """

    width: float = TEXT_WIDTH
    font: Literal["sans", "serif"] = "sans"
    captioned: bool = True

    @property
    def is_single(self) -> bool:
        """Whether it is one column, where legends go below and names are broken."""
        return self.width < 5

    def letters(self, share: float = 1.0) -> int:
        """How many of the smallest letters stand on a share of the width."""
        return int(_LETTERS[self.font] * self.width * share)

    def beside(self, text: str) -> str:
        """A label that stands beside a plot: broken into lines where a long one would squeeze the plot."""
        return "\n".join(wrap(text, self.letters(_BESIDE))) if self.is_single else text


def paper_of(width: Literal["single", "double"], font: Literal["sans", "serif"], *, captioned: bool) -> Paper:
    """A paper by the words of the command line."""
    return Paper(COLUMN_WIDTH if width == "single" else TEXT_WIDTH, font, captioned)


PAPER = Paper()
"""Both columns, without serifs, with the caption."""


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
def styled(paper: Paper = PAPER) -> Iterator[None]:
    """Applies the style inside the block and leaves matplotlib's settings as they were."""
    with as_file(files("privbench.drawing") / "style.mplstyle") as path, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(path, use_default_template=False))
        mpl.rcParams["font.family"] = "serif" if paper.font == "serif" else "sans-serif"
        yield


def add_caption(figure: Figure, text: str, paper: Paper) -> None:
    """Gives a figure its caption, above it where the paper wants it there; `caption_of` reads it back either way."""
    figure.set_label(text)
    if paper.captioned:
        shown = "\n".join(wrap(text, paper.letters()))
        # Without a layout that makes room for it, the caption stands at the upper edge.
        where = {} if figure.get_layout_engine() is not None else {"y": 1 - 0.04 / figure.get_size_inches()[1]}
        figure.suptitle(shown, x=0.01, ha="left", fontsize=SMALLEST, color="0.3", parse_math=False, **where)


def caption_of(figure: Figure) -> str:
    """What `add_caption` gave, in one paragraph."""
    return " ".join(str(figure.get_label()).split())


def caption_height(figure: Figure, paper: Paper) -> float:
    """Inches that the caption above the panels takes."""
    return 0.11 * len(wrap(caption_of(figure), paper.letters())) if paper.captioned else 0.0


def literal_legend(place: Axes | Figure, *, title: str | None = None, size: float = 7, letters: int = 100) -> int:
    """One legend of all series, to the right of axes or below a figure; a dollar sign in a name starts no formula.

    Args:
        place: Axes, or a figure of which every series of every panel is named once.
        title: Stands above the names.
        size: Of the font, in points.
        letters: Below a figure, so many letters stand beside each other.

    Returns:
        How many lines it has.
    """
    panels = place.axes if isinstance(place, Figure) else [place]
    named: dict[str, Any] = {}
    for panel in panels:
        named.update(dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True)))
    if not named:
        return 0
    columns = 1
    where: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    if isinstance(place, Figure):
        longest = max(map(len, named)) + 6
        columns = min(next(number for number in (4, 3, 2, 1) if number == 1 or longest * number <= letters), len(named))
        where = {"loc": "outside lower center", "ncols": columns, "columnspacing": 1.0}
    legend = place.legend(
        list(named.values()), list(named), **where, frameon=False, fontsize=size, title=title, title_fontsize=size
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return -(-len(named) // columns)


def figure_bytes(figure: Figure, form: str, *, title: str = "", paper: Paper = PAPER) -> bytes:
    """A figure as the content of a file; equal figures give equal bytes.

    Args:
        figure: What to draw.
        form: `png`, `pdf` or `svg`.
        title: Goes with the caption into the file's metadata.
        paper: What it was drawn for.
    """
    buffer = io.BytesIO()
    with styled(paper), mpl.rc_context({"svg.hashsalt": "privbench"}):
        figure.savefig(buffer, format=form, metadata=_metadata(form, title, caption_of(figure)))
    return buffer.getvalue()


def _metadata(form: str, title: str, caption: str) -> dict[str, Any]:
    """Without the time and the name of the drawing software, so that the bytes depend on the picture and privbench alone."""
    maker = f"privbench {__version__}"
    if form == "png":
        return {"Software": None, **({"Title": title, "Description": caption, "Source": maker} if title else {})}
    if form == "svg":
        return {
            "Creator": maker if title else None,
            "Date": None,
            **({"Title": title, "Description": caption} if title else {}),
        }
    named = {"Title": title, "Subject": caption, "Creator": maker, "Keywords": "privbench, gradient inversion, privacy"}
    return {"Producer": None, "CreationDate": None, **(named if title else {"Creator": None})}


def figure_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file; equal figures give equal bytes."""
    return figure_bytes(figure, "png")


def small_png(picture: bytes) -> bytes:
    """A PNG in 256 colours of its own, a third of the size: for pictures to be looked at, never for what is scored."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as opened:
        colours = opened.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    colours.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
