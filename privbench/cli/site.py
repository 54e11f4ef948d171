"""`privbench site`: the report as a static site, with a guide for rows of others."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import results_place, say_damaged

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["site"]


@click.command()
@click.argument("folder", type=results_place)
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
def site(folder: "Store", output: Path, baseline: str, verified: Path | None, skip_damaged: bool) -> None:
    """Write a static site of all records below FOLDER, for GitHub Pages or any server: leaderboard, table, entry guide.

    `index.html` is the page of `privbench report`, `leaderboard.csv` the same rows for programs, `submit.html` says how others
    hand in a row.
    """
    from privbench.analysis.leaderboard import leaderboard
    from privbench.analysis.report import report_page
    from privbench.analysis.site import submit_page, verified_cases
    from privbench.cli.report import presentation
    from privbench.store.files import atomic_write

    known = verified_cases(verified) if verified is not None else frozenset()
    damaged: list[str] | None = [] if skip_damaged else None
    page, cases = report_page(folder, presentation(), baseline=baseline, damaged=damaged, verified=known)
    with folder.open() as local:
        rows = leaderboard(local)
    files = {
        "index.html": page.encode(),
        "submit.html": submit_page().encode(),
        "leaderboard.csv": rows.to_csv(index=False).encode(),
        # GitHub Pages serves the files as they are.
        ".nojekyll": b"",
    }
    for name, content in files.items():
        atomic_write(output / name, content)
    say_damaged(damaged or [])
    click.echo(f"{cases} cases, {sum(map(len, files.values())) / 1e6:.1f} MB -> {output}")
