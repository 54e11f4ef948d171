"""`privbench leaderboard`: a CSV of all records below a folder, or tables in Markdown or LaTeX."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import results_place, say_damaged

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["leaderboard"]

_ENDINGS = {".csv": "a row per case", ".md": "tables in Markdown", ".tex": "tables in LaTeX, for booktabs"}


@click.command()
@click.argument("folder", type=results_place)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("leaderboard.csv"),
    show_default=True,
    help="File to write: NAME.csv, or for tables NAME.md or NAME.tex.",
)
@click.option("--intervals/--no-intervals", default=True, show_default=True, help="95 % intervals in tables.")
@click.option("--skip-damaged", is_flag=True, help="Leave out damaged files, and say which.")
def leaderboard(folder: "Store", output: Path, intervals: bool, skip_damaged: bool) -> None:
    """Make a leaderboard of all records below FOLDER: one row per case, best defense first within model, data and adversary.

    Written to NAME.md or NAME.tex it is the finished cases as the tables of a paper: a row per defense, a column per attack and
    adversary; in LaTeX the least leakage of each column is bold.

    FOLDER is a path, a URL or a pack. The file is generated from the records alone; the same records give the same bytes.
    """
    from privbench.core.errors import UserError

    ending = output.suffix.lower()
    if ending not in _ENDINGS:
        accepted = ", ".join(f"{name} ({what})" for name, what in _ENDINGS.items())
        raise UserError(f"cannot tell what {output} is to be; accepted endings: {accepted}; `privbench report` makes HTML")
    from privbench.analysis.damaged import sound_view
    from privbench.analysis.leaderboard import write_leaderboard

    with folder.open(everything=False) as local, sound_view(local, skip=skip_damaged) as (sound, damaged):
        if ending == ".csv":
            count = len(write_leaderboard(sound, output))
        else:
            from privbench.analysis.overview import write_overview

            count = write_overview(sound, output, intervals=intervals)
        say_damaged([line.replace(str(local), str(folder)) for line in damaged])
    click.echo(f"{count} cases -> {output}")
