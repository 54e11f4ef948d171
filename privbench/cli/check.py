"""`privbench check`: whether a plug-in keeps to the rules of its kind."""

import click

import privbench

__all__ = ["check"]

_MARKS = {"kept": "ok", "broken": "BROKEN", "skipped": "-"}


@click.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["attack", "defense"]), help="Where an attack and a defense share the name.")
def check(name: str, kind: str | None) -> None:
    """Check the attack or defense NAME, or NAME:KEY=VALUE, against the rules of its kind: one line a rule.

    It needs no data set and no test runner, and attacks clients with random weights in a few steps. A rule that says nothing
    about the component is marked with a dash and the reason. Exit code 1 where a rule is broken.
    """
    found, rules = privbench.check(name, kind)
    click.echo(f"{found} {name}")
    counts = dict.fromkeys(_MARKS, 0)
    for finding in rules:
        counts[finding.state] += 1
        detail = f": {finding.detail}" if finding.detail else ""
        click.echo(f"  {_MARKS[finding.state]:6} {finding.rule}{detail}")
    click.echo(f"{counts['kept']} rules kept, {counts['broken']} broken, {counts['skipped']} that say nothing about it")
    if counts["broken"]:
        raise SystemExit(1)
