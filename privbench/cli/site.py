"""`privbench site`: the report as a static site, with a guide for rows of others."""

from pathlib import Path

import click

import privbench

__all__ = ["site"]


@click.command()
@click.argument("folder", type=click.STRING)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("site"), show_default=True, help="Folder."
)
@click.option("--baseline", default="none", show_default=True, help="The defense to compare the others with.")
@click.option(
    "--verified",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the hashes of cases that `privbench verify` computed again, one a line; the others are shown as reported.",
)
@click.option("--skip-damaged", is_flag=True, help="Leave out damaged files, and say which.")
def site(folder: str, output: Path, baseline: str, verified: Path | None, skip_damaged: bool) -> None:
    """Write a static site of all records below FOLDER, for GitHub Pages or any server: leaderboard, table, entry guide.

    `index.html` is the page of `privbench report`, `leaderboard.csv` the same rows for programs, `submit.html` says how others
    hand in a row.
    """
    from privbench.cli.console import say_damaged

    results = privbench.load_results(folder, skip_damaged=skip_damaged)
    written = results.site(output, baseline=baseline, verified=verified)
    say_damaged(written.damaged)
    click.echo(f"{written.cases} cases, {written.size / 1e6:.1f} MB -> {output}")
