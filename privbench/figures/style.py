"""The one style of all figures, and figures as files."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["figure_png", "styled"]


@contextmanager
def styled() -> Iterator[None]:
    """Applies the style inside the block and leaves matplotlib's settings as they were."""
    with as_file(files("privbench.figures") / "style.mplstyle") as path, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(path, use_default_template=False))
        yield


def figure_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with styled():
        # Without the name and version of the software the bytes depend on the picture alone.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
