"""`privbench status`: where the cases of a folder stand."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import path_or_url

if TYPE_CHECKING:
    from privbench.store.remote import Remote

__all__ = ["status"]


@click.command()
@click.argument("folder", type=path_or_url)
@click.option("--all", "everything", is_flag=True, help="List finished and waiting cases too.")
def status(folder: "Path | Remote", everything: bool) -> None:
    """Say where the cases of FOLDER, a path or URL, stand: done, running, begun and interrupted, failed, waiting."""
    from collections import Counter

    from privbench.store.remote import fetched
    from privbench.sweep.survey import survey
    from privbench.sweep.work import CaseState

    with fetched(folder) as local:
        found = survey(local)
    quiet = set() if everything else {CaseState.DONE, CaseState.WAITING}
    for one in found:
        if one.state not in quiet:
            click.echo(
                f"{one.state:8} {folder / one.path.relative_to(local).as_posix()}" + (f": {one.detail}" if one.detail else "")
            )
    counts = Counter(one.state for one in found)
    click.echo(f"{len(found)} cases: " + ", ".join(f"{counts[state]} {state}" for state in CaseState if counts[state]))
