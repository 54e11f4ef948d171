"""`privbench calibrate` and `privbench identify`: what the scores of finished cases mean."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privbench.cli.numeric import WholeNumber
from privbench.cli.place import results_place

if TYPE_CHECKING:
    from privbench.store.base import Store

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
@click.argument("folder", type=results_place)
@_lpips_options
def calibrate(folder: "Store", lpips_weights: Path | None, download: bool) -> None:
    """Score pictures that nobody reconstructed for the images of all records below FOLDER.

    Uniform noise, the mean image, another image of the class, the truth with shuffled patches, and a JPEG of quality 10: one
    file for each selection of images; the leaderboard then says between which of them a score stands.
    """
    import torch

    from privbench.analysis.leaderboard import read_record
    from privbench.analysis.tables import calibration_table
    from privbench.analysis.yardstick_files import calibration_name
    from privbench.analysis.yardsticks import calibrate as compute
    from privbench.cli.console import results_console
    from privbench.core import UserError
    from privbench.runner.context import load_case
    from privbench.runner.suites import Suites
    from privbench.store.case_folder import repeatable
    from privbench.store.layout import find_records

    suites, seen = Suites(lpips_weights, download=download), set[str]()
    with folder.open() as local:
        records = [repeatable(path.parent, read_record(path)) for path in find_records(local)]
    for record in records:
        name = calibration_name(record.case)
        if name in seen:
            continue
        seen.add(name)
        prepared = load_case(record.case, torch.device("cpu"))
        if prepared.victim.patch_size is None:
            raise UserError(f"case {record.case_id} has a model without patches; calibration shuffles patches")
        found = compute(record.case, patch_size=prepared.victim.patch_size, suite=suites.suite(prepared))
        folder.write({name: found.to_json().encode()})
        results_console().print(calibration_table(found))
        click.echo(str(folder / name))


@click.command()
@click.argument("folder", type=results_place)
@click.option(
    "--candidates",
    type=WholeNumber(min=2),
    help="Images to choose from, the true one included.  [default: 100, or all of a smaller data set]",
)
@_lpips_options
def identify(folder: "Store", candidates: int | None, lpips_weights: Path | None, download: bool) -> None:
    """Rank the true image among candidates by its likeness to the reconstruction, for all records below FOLDER.

    By pixels, LPIPS and the features of the embedded CNN; the leaderboard then has the share of images that are found first,
    and among the first five. By chance these are 1 and 5 in the number of candidates.
    """
    import torch

    from privbench.analysis.leaderboard import read_record
    from privbench.analysis.yardstick_files import IDENTIFICATION
    from privbench.analysis.yardsticks import identify as compute
    from privbench.runner.context import load_case
    from privbench.runner.suites import Suites
    from privbench.store.case_folder import repeatable
    from privbench.store.layout import find_records

    suites = Suites(lpips_weights, download=download)
    found: dict[str, bytes] = {}
    try:
        with folder.open() as local:
            for path in find_records(local):
                record = repeatable(path.parent, read_record(path))
                suite = suites.suite(load_case(record.case, torch.device("cpu")))
                ranked = compute(record, path.parent, candidates=candidates, suite=suite)
                found[path.with_name(IDENTIFICATION).relative_to(local).as_posix()] = ranked.to_json().encode()
                shares = ", ".join(f"{name} {ranked.top(name, 1):.0%} / {ranked.top(name, 5):.0%}" for name in ranked.ranks)
                click.echo(f"{path.parent.name}: top-1 / top-5 of {ranked.candidates}: {shares}")
    finally:
        folder.write(found)
