"""`privbench status`: where the cases of a folder stand."""

from typing import TYPE_CHECKING

import click

from privbench.cli.place import results_place

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["status"]


@click.command()
@click.argument("folder", type=results_place)
@click.option("--all", "everything", is_flag=True, help="List finished and waiting cases too.")
def status(folder: "Store", everything: bool) -> None:
    """Say where the cases of FOLDER, a path or URL, stand: done, running, begun and interrupted, failed, waiting."""
    from collections import Counter

    from privbench.sweep.status import CaseState, survey

    found = survey(folder)
    quiet = set() if everything else {CaseState.DONE, CaseState.WAITING}
    for one in found:
        if one.state not in quiet:
            click.echo(f"{one.state:8} {folder / one.name}" + (f": {one.detail}" if one.detail else ""))
    counts = Counter(one.state for one in found)
    click.echo(f"{len(found)} cases: " + ", ".join(f"{counts[state]} {state}" for state in CaseState if counts[state]))
