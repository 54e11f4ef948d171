"""What may be asked of a figure, whichever it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

__all__ = ["FigureOptions"]


class FigureOptions(TypedDict, total=False):
    """What may be asked of a figure; each takes those that `registry.FIGURES` names, and all take the last three."""

    metric: str
    """Leakage metric; `psnr` where nothing is said."""
    where: Sequence[str]
    """`COLUMN=VALUE` each: only the records with this value."""
    images: int | str
    """Of each case in a gallery: the first so many, or a list such as `best,median,worst`."""
    rows: Sequence[str]
    """Columns of a gallery of which each combination is one row."""
    data: Path | None
    """Where the private images of a gallery lie, if not where the records say."""
    weights: Sequence[Path | str]
    """Weights of further victims, of the figure `positions`."""
    width: Literal["single", "double"]
    """One column of a paper, or both."""
    font: Literal["sans", "serif"]
    """Of all text."""
    captioned: bool
    """Whether the caption stands in the figure."""
