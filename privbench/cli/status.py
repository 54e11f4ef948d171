"""`privbench status`: where the cases of a folder stand."""

from pathlib import Path

import click

__all__ = ["status"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="List finished and waiting cases too.")
def status(folder: Path, everything: bool) -> None:
    """Say where the cases of FOLDER stand: done, running, begun and interrupted, failed, waiting."""
    from collections import Counter

    from privbench.runs.survey import survey
    from privbench.runs.sweep import CaseState

    found = survey(folder)
    quiet = set() if everything else {CaseState.DONE, CaseState.WAITING}
    for one in found:
        if one.state not in quiet:
            click.echo(f"{one.state:8} {one.path}" + (f": {one.detail}" if one.detail else ""))
    counts = Counter(one.state for one in found)
    click.echo(f"{len(found)} cases: " + ", ".join(f"{counts[state]} {state}" for state in CaseState if counts[state]))
