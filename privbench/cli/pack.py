"""`privbench pack`: the records of a folder in one file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import results_place

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["pack"]


@click.command()
@click.argument("folder", type=results_place)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write; its name ends in .jsonl.gz."
)
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Pack comparison pictures and reconstructions.")
def pack(folder: "Store", output: Path, pictures: bool) -> None:
    """Pack all records below FOLDER, a path or URL, into one file of compressed JSON lines.

    All commands that read results take the file in place of a folder, and FILE/CASE in place of a case's folder. It holds
    records, traces, pictures, prices, calibrations and identifications; data sets and weights are named, without their paths.
    """
    from privbench.store.pack import pack as write

    count = write(folder, output, pictures=pictures)
    click.echo(f"{count} cases, {output.stat().st_size / 1e6:.1f} MB -> {output}")
