"""`privbench pack`: the records of a folder in one file."""

from pathlib import Path

import click

import privbench

__all__ = ["pack"]


@click.command()
@click.argument("folder", type=click.STRING)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write; its name ends in .jsonl.gz."
)
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Pack comparison pictures and reconstructions.")
@click.option("--traces/--no-traces", default=True, show_default=True, help="Pack losses in the course of attacks.")
def pack(folder: str, output: Path, pictures: bool, traces: bool) -> None:
    """Pack all records below FOLDER, a path or URL, into one file of compressed JSON lines.

    All commands that read results take the file in place of a folder, and FILE/CASE in place of a case's folder. It holds
    records, traces, pictures, utility reports, calibrations and identifications; data sets and weights by name, without paths.
    """
    written = privbench.load_results(folder).pack(output, pictures=pictures, traces=traces)
    click.echo(f"{written.cases} cases, {written.size / 1e6:.1f} MB -> {output}")
