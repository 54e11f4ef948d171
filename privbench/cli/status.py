"""`privbench status`: where the cases of a folder stand."""

from collections import Counter

import click

import privbench

__all__ = ["status"]


@click.command()
@click.argument("folder", type=click.STRING)
@click.option("--all", "everything", is_flag=True, help="List finished and waiting cases too.")
def status(folder: str, everything: bool) -> None:
    """Say where the cases of FOLDER, a path or URL, stand: done, running, begun and interrupted, failed, waiting."""
    from privbench.api import store_at

    place = store_at(folder)
    found = privbench.status(place)
    quiet = set() if everything else {"done", "waiting"}
    for one in found:
        if one.state not in quiet:
            click.echo(f"{one.state:8} {place / one.name}" + (f": {one.detail}" if one.detail else ""))
    counts = Counter(str(one.state) for one in found)
    states = ("waiting", "begun", "running", "done", "failed")
    click.echo(f"{len(found)} cases: " + ", ".join(f"{counts[state]} {state}" for state in states if counts[state]))
