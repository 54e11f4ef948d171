"""`privbench show`: one case."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import case_at, results_place

if TYPE_CHECKING:
    from privbench.core import Record
    from privbench.store.base import Store

__all__ = ["show"]


@click.command()
@click.argument("case")
@click.option(
    "--output",
    type=results_place,
    default=Path("results"),
    show_default=True,
    help="Where to look for a hash.",
)
def show(case: str, output: "Store") -> None:
    """Show CASE, a case's folder, its URL, or the first letters of its hash: numbers, flags, losses, or why it failed."""
    from privbench.core import FailedCase, Record
    from privbench.store.case_folder import CaseFolder
    from privbench.store.layout import FAILURE, RECORD

    with case_at(case, output, everything=True) as (path, name):
        if (path / RECORD).exists():
            record = Record.load(path / RECORD)
            _show(record, path, name)
            for file in CaseFolder(path.parent, record.case).damaged(record):
                click.echo(f"damaged: {name}/{file} is missing or was changed since the record was written")
            return
        if (path / FAILURE).exists():
            failure = FailedCase.load(path / FAILURE)
            click.echo(f"{name} failed at {failure.finished}: {failure.reason}")
            return
    click.echo(
        f"{name} is not finished; repeat its command to continue, or see privbench status {name.rpartition('/')[0] or '.'}"
    )


def _show(record: "Record", path: Path, called: str) -> None:
    from privbench.analysis.tables import case_table, footnotes, members_table
    from privbench.cli.console import results_console
    from privbench.core.labels import defense_label
    from privbench.store.layout import COMPARISON

    label = defense_label(record.case)
    console = results_console()
    console.print(case_table(record, label))
    if record.members:
        console.print(members_table(record, label))
    losses = {name: [image.losses[name] for image in record.images if name in image.losses] for name in record.images[0].losses}
    if losses:
        click.echo("final losses, means: " + ", ".join(f"{name} {sum(v) / len(v):.3g}" for name, v in losses.items()))
    click.echo("flags: " + (", ".join(record.flags) or "none"))
    for line in footnotes([record], [label]):
        click.echo(line)
    made = record.provenance
    click.echo(
        f"made by privbench {made.version} (commit {(made.commit or 'unknown')[:12]}), torch {made.torch}, {made.device}, "
        f"{made.seconds:.0f} s, {made.finished}"
    )
    click.echo(f"again: privbench run --config {called} --force")
    if (path / COMPARISON).exists():
        click.echo(f"picture: {called}/{COMPARISON}")
