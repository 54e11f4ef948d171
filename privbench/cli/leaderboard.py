"""`privbench leaderboard`: a CSV of all records below a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import path_or_url

if TYPE_CHECKING:
    from privbench.runs.remote import Remote

__all__ = ["leaderboard"]


@click.command()
@click.argument("folder", type=path_or_url)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("leaderboard.csv"), show_default=True, help="File to write."
)
def leaderboard(folder: "Path | Remote", output: Path) -> None:
    """Make a leaderboard of all records below FOLDER: one row per case, best defense first within model, data and adversary.

    FOLDER is a path or a URL. The file is generated from the records alone; the same records give the same bytes.
    """
    from privbench.runs.leaderboard import write_leaderboard
    from privbench.runs.remote import fetched

    with fetched(folder) as local:
        rows = write_leaderboard(local, output)
    click.echo(f"{len(rows)} cases -> {output}")
