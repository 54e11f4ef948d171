"""`privbench show`: one case."""

from statistics import fmean
from typing import TYPE_CHECKING

import click

import privbench

if TYPE_CHECKING:
    from privbench.api import FoundCase
    from privbench.core import Record

__all__ = ["show"]


@click.command()
@click.argument("case")
@click.option(
    "--output",
    type=click.STRING,
    default="results",
    show_default=True,
    help="Where to look for a hash.",
)
def show(case: str, output: str) -> None:
    """Show CASE, a case's folder, its URL, or the first letters of its hash: numbers, flags, losses, or why it failed."""
    found = privbench.find_case(case, output)
    if found.record is not None:
        _show(found, found.record)
    elif found.failure is not None:
        click.echo(f"{found.name} failed at {found.failure.finished}: {found.failure.reason}")
    else:
        above = found.name.rpartition("/")[0] or "."
        click.echo(f"{found.name} is not finished; repeat its command to continue, or see privbench status {above}")


def _show(found: "FoundCase", record: "Record") -> None:
    from privbench.cli.console import results_console
    from privbench.core.labels import defense_label
    from privbench.tables.cases import case_table, footnotes, members_table

    label = defense_label(record.case)
    console = results_console()
    console.print(case_table(record, label))
    if record.members:
        console.print(members_table(record, label))
    losses = {name: [image.losses[name] for image in record.images if name in image.losses] for name in record.images[0].losses}
    if losses:
        click.echo("final losses, means: " + ", ".join(f"{name} {fmean(v):.3g}" for name, v in losses.items()))
    click.echo("flags: " + (", ".join(record.flags) or "none"))
    for line in footnotes([record], [label]):
        click.echo(line)
    made = record.provenance
    click.echo(
        f"made by privbench {made.version} (commit {(made.commit or 'unknown')[:12]}), torch {made.torch}, {made.device}, "
        f"{made.seconds:.0f} s, {made.finished}"
    )
    click.echo(f"again: privbench run --config {found.name} --force")
    if found.picture is not None:
        click.echo(f"picture: {found.name}/comparison.png")
    for file in found.damaged:
        click.echo(f"damaged: {found.name}/{file} is missing or was changed since the record was written")
