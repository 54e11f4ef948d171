"""What `privbench run` and `privbench show` print of finished cases."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from privbench.cli.console import results_console, say

if TYPE_CHECKING:
    from privbench.api import PlannedCase
    from privbench.results import Results

__all__ = ["show_plan", "show_results"]


def show_plan(planned: "Sequence[PlannedCase]") -> None:
    """Prints resolved cases as YAML documents, each after a comment that says where it would go."""
    click.echo("---\n".join(f"# {one.place} ({one.state})\n{one.case.to_yaml()}" for one in planned), nl=False)


def show_results(results: "Results") -> None:
    """Prints the table, what must be known about it, and what was written."""
    from privbench.tables.cases import case_table, defenses_table, footnotes, members_table, servers_said

    records, labels = results.records, results.labels
    console = results_console()
    several = len(records) > 1
    console.print(defenses_table(records, labels, width=console.width) if several else case_table(records[0], labels[0]))
    for record, label in zip(records, labels, strict=True):
        if record.members:
            console.print(members_table(record, label))
    for label, guarantee in results.guarantees.items():
        say(f"guarantee of {label}: {guarantee}")
    for line in servers_said(records, labels):
        say(line)
    for line in footnotes(records, labels):
        say(line)
    for record, folder in zip(records, results.folders, strict=True):
        kept = "members/" if record.members else "trace.csv"
        click.echo(f"{results.place / folder}: record.json, case.yaml, {kept}, comparison.png, reconstructions/")
    if results.comparison_name is not None:
        click.echo(results.place / results.comparison_name)
