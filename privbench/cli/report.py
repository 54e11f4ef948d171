"""`privbench report`: one HTML page of all records below a folder."""

from pathlib import Path

import click

import privbench

__all__ = ["report"]


@click.command()
@click.argument("folder", type=click.STRING)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="File to write."
)
@click.option("--baseline", default="none", show_default=True, help="The defense to compare the others with.")
@click.option("--skip-damaged", is_flag=True, help="Leave out damaged files, and say which.")
def report(folder: str, output: Path, baseline: str, skip_damaged: bool) -> None:
    """Make one HTML page of all records below FOLDER: leaderboard, pictures, losses, comparisons, and how each row was made.

    FOLDER is a path, a URL or a pack. The page needs no network and no other file. It is generated from the folder alone;
    the same folder gives the same bytes.
    """
    from privbench.cli.console import say_damaged

    written = privbench.load_results(folder, skip_damaged=skip_damaged).report(output, baseline=baseline)
    say_damaged(written.damaged)
    click.echo(f"{written.cases} cases, {written.size / 1e6:.1f} MB -> {output}")
