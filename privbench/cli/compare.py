"""`privbench compare`: defenses beside each other on the same images."""

from typing import TYPE_CHECKING

import click

from privbench.cli.place import results_place

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["compare"]


@click.command()
@click.argument("folder", type=results_place)
@click.option("--metric", default="psnr", show_default=True, help="Whose scores.")
@click.option("--baseline", default="none", show_default=True, help="The defense to compare with.")
def compare(folder: "Store", metric: str, baseline: str) -> None:
    """Compare every defense below FOLDER with the baseline, image by image, under the same attack and threat model.

    FOLDER is a path, a URL or a pack. A row has the mean difference of the metric, its 95 % bootstrap interval, the p of a
    Wilcoxon signed-rank test, the same corrected for the number of rows (Holm), and the number of images.
    """
    from privbench.analysis.compare import compare_folder
    from privbench.analysis.tables import comparisons_table
    from privbench.cli.console import results_console

    with folder.open(everything=False) as local:
        found = compare_folder(local, metric=metric, baseline=baseline)
    results_console().print(comparisons_table(found, metric, baseline))
