"""`privbench leaderboard`: a CSV of all records below a folder."""

from pathlib import Path

import click

__all__ = ["leaderboard"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("leaderboard.csv"), show_default=True, help="File to write."
)
def leaderboard(folder: Path, output: Path) -> None:
    """Make a leaderboard of all records below FOLDER: one row per case, best defense first within model, data and adversary.

    The file is generated from the records alone; the same records give the same bytes.
    """
    from privbench.runs.leaderboard import write_leaderboard

    rows = write_leaderboard(folder, output)
    click.echo(f"{len(rows)} cases -> {output}")
