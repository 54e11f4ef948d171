"""What a user asks of a figure, and what comes back."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from privbench.analysis.cases import case_table
from privbench.core import UserError
from privbench.drawing.style import PAPER, Paper, caption_of, figure_bytes, paper_of, small_png
from privbench.plots.options import FigureOptions
from privbench.plots.selection import SETTING
from privbench.store.files import atomic_write

__all__ = ["FORMATS", "Drawn", "FigureRequest", "request_of", "where"]


FORMATS = (".pdf", ".png", ".svg")


@dataclass(frozen=True)
class Drawn:
    """A figure and what the user should know of it; a notebook shows it.

    Attributes:
        figure: The figure.
        notes: What is missing or was left out, one line each.
        title: For the metadata of a file.
        paper: What it was drawn for.
    """

    figure: Figure
    notes: tuple[str, ...] = ()
    title: str = "privbench"
    paper: Paper = PAPER

    @property
    def caption(self) -> str:
        """Setting, n, and how to read it, in one paragraph."""
        return caption_of(self.figure)

    def save(self, path: Path | str) -> list[Path]:
        """Writes the figure, and beside it the caption as a .txt where the figure does not hold it.

        Args:
            path: File to write: .pdf, .png or .svg.

        Returns:
            The files.

        Raises:
            UserError: The ending is another, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix not in FORMATS:
            raise UserError(f"{path} has no format that a figure can have; accepted: {', '.join(FORMATS)}")
        form = path.suffix.removeprefix(".")
        atomic_write(path, figure_bytes(self.figure, form, title=self.title, paper=self.paper))
        if self.paper.captioned:
            return [path]
        atomic_write(path.with_suffix(".txt"), f"{self.caption}\n".encode())
        return [path, path.with_suffix(".txt")]

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        """The picture for a notebook, in few colours, and what it shows in words."""
        picture = small_png(figure_bytes(self.figure, "png", paper=self.paper))
        return picture, {"alt": f"{self.title.removeprefix('privbench ')}: {self.caption}"}


@dataclass(frozen=True)
class FigureRequest:
    """From what a figure is drawn, and for which paper. A figure takes those options that its registration names.

    Attributes:
        folder: Where the records lie; None only for a figure that needs none.
        metric: Leakage metric.
        where: `COLUMN=VALUE` each.
        images: Which images of each case a gallery shows: the first so many, or a list of `best`, `median` and `worst`.
        rows: Columns of a gallery of which each combination is one row.
        data: Where the private images lie, if not where the records say.
        weights: Files of further victims.
        paper: What the figure is drawn for.
    """

    folder: Path | None
    metric: str = "psnr"
    where: tuple[str, ...] = ()
    images: str = "4"
    rows: tuple[str, ...] = ()
    data: Path | None = None
    weights: tuple[Path, ...] = ()
    paper: Paper = PAPER

    @property
    def records(self) -> Path:
        """The folder.

        Raises:
            UserError: There is none.
        """
        if self.folder is None:
            raise UserError("this figure is made from records; give their folder or pack, such as results/reference.jsonl.gz")
        return self.folder

    def cases(self) -> pd.DataFrame:
        """The cases that are asked for.

        Raises:
            UserError: The folder, a column or a value is not there.
        """
        return where(case_table(self.records), *self.where)


def request_of(folder: Path | None, options: FigureOptions) -> FigureRequest:
    """The request that a user's options make.

    Args:
        folder: Where the records lie.
        options: What was asked for.
    """
    return FigureRequest(
        folder,
        metric=options.get("metric", "psnr"),
        where=tuple(options.get("where", ())),
        images=str(options.get("images", 4)),
        rows=tuple(options.get("rows", ())),
        data=options.get("data"),
        weights=tuple(map(Path, options.get("weights", ()))),
        paper=paper_of(options.get("width", "double"), options.get("font", "sans"), captioned=options.get("captioned", True)),
    )


_CONDITIONS = (*SETTING, "attack", "attack_label", "defense", "defense_label", "adversary", "case", "version", "device")


def where(rows: pd.DataFrame, *conditions: str) -> pd.DataFrame:
    """The cases that meet all conditions, each `COLUMN=VALUE`.

    Raises:
        UserError: A column is not there, or no case is left.
    """
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or column not in rows:
            accepted = ", ".join(str(name) for name in rows if name in _CONDITIONS)
            raise UserError(f"'{condition}' chooses nothing; accepted: COLUMN=VALUE with a column of {accepted}")
        known = sorted(rows[column].astype(str).unique())
        rows = rows[rows[column].astype(str) == value]
        if rows.empty:
            raise UserError(f"no record has {column} '{value}'; accepted: {', '.join(known)}")
    return rows
