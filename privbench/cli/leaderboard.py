"""`privbench leaderboard`: a CSV of all records below a folder, or tables in Markdown or LaTeX."""

from pathlib import Path

import click

import privbench

__all__ = ["leaderboard"]


@click.command()
@click.argument("folder", type=click.STRING)
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
def leaderboard(folder: str, output: Path, intervals: bool, skip_damaged: bool) -> None:
    """Make a leaderboard of all records below FOLDER: one row per case, best defense first within one setting.

    Written to NAME.md or NAME.tex it is the finished cases as the tables of a paper: a row per defense, a column per attack and
    adversary; in LaTeX the least leakage of each column is bold.

    FOLDER is a path, a URL or a pack. The file is generated from the records alone; the same records give the same bytes.
    """
    from privbench.cli.console import say_damaged
    from privbench.results import require_ending

    require_ending(output)
    written = privbench.load_results(folder, skip_damaged=skip_damaged).save_leaderboard(output, intervals=intervals)
    say_damaged(written.damaged)
    click.echo(f"{written.cases} cases -> {output}")
