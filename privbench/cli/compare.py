"""`privbench compare`: defenses beside each other on the same images."""

import click

import privbench

__all__ = ["compare"]


@click.command()
@click.argument("folder", type=click.STRING)
@click.option("--metric", default="psnr", show_default=True, help="Whose scores.")
@click.option("--baseline", default="none", show_default=True, help="The defense to compare with.")
def compare(folder: str, metric: str, baseline: str) -> None:
    """Compare every defense below FOLDER with the baseline, image by image, under the same attack and threat model.

    FOLDER is a path, a URL or a pack. A row has the mean difference of the metric, its 95 % bootstrap interval, the p of a
    Wilcoxon signed-rank test, the same corrected for the number of rows (Holm), and the number of images.
    """
    from privbench.cli.console import results_console
    from privbench.tables.comparisons import comparisons_table

    found = privbench.load_results(folder).comparisons(metric=metric, baseline=baseline)
    console = results_console()
    console.print(comparisons_table(found, metric, baseline, width=console.width))
