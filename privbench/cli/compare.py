"""`privbench compare`: defenses beside each other on the same images."""

from pathlib import Path

import click

__all__ = ["compare"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--metric", default="psnr", show_default=True, help="Whose scores.")
@click.option("--baseline", default="none", show_default=True, help="The defense to compare with.")
def compare(folder: Path, metric: str, baseline: str) -> None:
    """Compare every defense below FOLDER with the baseline, image by image, under the same attack and threat model.

    A row has the mean difference of the metric, its 95 % bootstrap interval, the p of a Wilcoxon signed-rank test, and the
    number of images. The p is of one comparison: with many rows some are small by chance.
    """
    from privbench.cli.console import results_console
    from privbench.cli.tables import comparisons_table
    from privbench.runs.compare import compare_folder

    results_console().print(comparisons_table(compare_folder(folder, metric=metric, baseline=baseline), metric, baseline))
