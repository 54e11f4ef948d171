"""`privbench calibrate` and `privbench identify`: what the scores of finished cases mean."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import privbench
from privbench.cli.numeric import WholeNumber

if TYPE_CHECKING:
    from privbench.core import Calibration, Identification

__all__ = ["calibrate", "identify"]


def _lpips_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--download/--no-download", default=True, show_default=True, help="Fetch the trunk where it is not cached."
        ),
        click.option("--lpips-weights", type=click.Path(path_type=Path), help="File with the trunk's weights."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("folder", type=click.STRING)
@_lpips_options
def calibrate(folder: str, lpips_weights: Path | None, download: bool) -> None:
    """Score pictures that nobody reconstructed for the images of all records below FOLDER.

    Uniform noise, the mean image, another image of the class, the truth with shuffled patches, and a JPEG of quality 10: one
    file for each selection of images; the leaderboard then says between which of them a score stands.
    """
    from privbench.cli.console import results_console
    from privbench.tables.scores import calibration_table

    def report(name: str, found: "Calibration") -> None:
        results_console().print(calibration_table(found))
        click.echo(results.place / name)

    results = privbench.load_results(folder)
    results.calibrate(lpips_weights=lpips_weights, download=download, report=report)


@click.command()
@click.argument("folder", type=click.STRING)
@click.option(
    "--candidates",
    type=WholeNumber(min=2),
    help="Images to choose from, the true one included.  [default: 100, or all of a smaller data set]",
)
@_lpips_options
def identify(folder: str, candidates: int | None, lpips_weights: Path | None, download: bool) -> None:
    """Rank the true image among candidates by its likeness to the reconstruction, for all records below FOLDER.

    By pixels, LPIPS and the features of the embedded CNN; the leaderboard then has the share of images that are found first,
    and among the first five. By chance these are 1 and 5 in the number of candidates.
    """

    def report(name: str, found: "Identification") -> None:
        shares = ", ".join(f"{kind} {found.top(kind, 1):.0%} / {found.top(kind, 5):.0%}" for kind in found.ranks)
        click.echo(f"{name.rpartition('/')[2]}: top-1 / top-5 of {found.candidates}: {shares}")

    results = privbench.load_results(folder)
    results.identify(candidates=candidates, lpips_weights=lpips_weights, download=download, report=report)
