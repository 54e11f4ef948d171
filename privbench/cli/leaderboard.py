"""`privbench leaderboard`: a CSV of all records below a folder, or tables in Markdown."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import results_place

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["leaderboard"]


@click.command()
@click.argument("folder", type=results_place)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("leaderboard.csv"),
    show_default=True,
    help="File to write; NAME.md for tables in Markdown.",
)
def leaderboard(folder: "Store", output: Path) -> None:
    """Make a leaderboard of all records below FOLDER: one row per case, best defense first within model, data and adversary.

    Written to NAME.md it is the finished cases as the tables of a paper: a row per defense, a column per attack and adversary.

    FOLDER is a path or a URL. The file is generated from the records alone; the same records give the same bytes.
    """
    from privbench.analysis.leaderboard import write_leaderboard
    from privbench.analysis.overview import write_overview

    with folder.open(everything=False) as local:
        count = write_overview(local, output) if output.suffix == ".md" else len(write_leaderboard(local, output))
    click.echo(f"{count} cases -> {output}")
