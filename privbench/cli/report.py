"""`privbench report`: one HTML page of all records below a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import results_place, say_damaged

if TYPE_CHECKING:
    from privbench.analysis.report import Presentation
    from privbench.store.base import Store

__all__ = ["presentation", "report"]


def presentation() -> "Presentation":
    """Names, numbers and drawings of the page."""
    from privbench.analysis.report import Presentation
    from privbench.analysis.tables import METRICS, value_text
    from privbench.core.labels import attack_label, defense_label
    from privbench.plots.drawing import draw_fronts
    from privbench.plots.image_grid import comparison_cells

    return Presentation(
        defense=defense_label,
        attack=attack_label,
        metrics=METRICS,
        number=value_text,
        comparison=comparison_cells,
        fronts=draw_fronts,
    )


@click.command()
@click.argument("folder", type=results_place)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="File to write."
)
@click.option("--baseline", default="none", show_default=True, help="The defense to compare the others with.")
@click.option("--skip-damaged", is_flag=True, help="Leave out damaged files, and say which.")
def report(folder: "Store", output: Path, baseline: str, skip_damaged: bool) -> None:
    """Make one HTML page of all records below FOLDER: leaderboard, pictures, losses, comparisons, and how each row was made.

    FOLDER is a path, a URL or a pack. The page needs no network and no other file. It is generated from the folder alone;
    the same folder gives the same bytes.
    """
    from privbench.analysis.report import report_page
    from privbench.store.files import atomic_write, refuse_folder

    refuse_folder(output)
    damaged: list[str] | None = [] if skip_damaged else None
    page, cases = report_page(folder, presentation(), baseline=baseline, damaged=damaged)
    content = page.encode()
    atomic_write(output, content)
    say_damaged(damaged or [])
    click.echo(f"{cases} cases, {len(content) / 1e6:.1f} MB -> {output}")
