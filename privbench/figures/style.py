"""The one style of all figures, and figures as files."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["figure_bytes", "figure_png", "literal_legend", "styled"]


@contextmanager
def styled() -> Iterator[None]:
    """Applies the style inside the block and leaves matplotlib's settings as they were."""
    with as_file(files("privbench.figures") / "style.mplstyle") as path, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(path, use_default_template=False))
        yield


def literal_legend(axes: Axes) -> None:
    """A legend to the right of the axes; names stand as they are, a dollar sign in them starts no formula."""
    for text in axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False).get_texts():
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
