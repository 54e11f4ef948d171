"""`privbench list`: what can be named on the command line, with its parameters."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import click

if TYPE_CHECKING:
    from privbench.api.catalogue import Entry, Kind

__all__ = ["list_components"]


@click.command(name="list")
@click.argument("kind", type=click.Choice(["attacks", "ensembles", "defenses", "models", "metrics", "datasets", "loggers"]))
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs, with all parameters.")
def list_components(kind: str, name: str | None, as_json: bool) -> None:
    """List what can be named, a line each: attacks, ensembles of attacks, defenses, models, metrics, datasets or loggers.

    With NAME, such as `privbench list attacks gradvit`: its card and its parameters.
    """
    from privbench.api.catalogue import component, components, summaries

    meant = cast("Kind", kind)
    if as_json:
        listed = components(meant) if name is None else [component(meant, name)]
        click.echo(json.dumps([asdict(entry) for entry in listed], indent=2))
    elif name is None:
        _print_lines(kind, summaries(meant))
    else:
        _print_card(kind, component(meant, name))


def _print_lines(kind: str, listed: Mapping[str, str]) -> None:
    from rich.text import Text

    from privbench.cli.console import results_console

    console = results_console()
    names = max(map(len, listed))
    for name, summary in listed.items():
        line = Text.assemble((name.ljust(names), "bold"), "  ", summary)
        line.truncate(console.width, overflow="ellipsis")
        console.print(line)
    if kind in {"attacks", "defenses"}:
        click.echo(f"privbench list {kind} NAME shows a card with parameters")


def _print_card(kind: str, entry: "Entry") -> None:
    """The card as its author wrote it, then guarantee, presets and parameters."""
    from rich import box
    from rich.markdown import Markdown
    from rich.table import Table
    from rich.text import Text

    from privbench.api.catalogue import component_card
    from privbench.cli.console import results_console

    console = results_console()
    card = component_card(kind, entry.name)
    console.print(Markdown(card) if card else Text(f"{entry.name}: {entry.summary}"))
    if entry.guarantee is not None:
        click.echo(f"\nGuarantee: {entry.guarantee}")
    for name, values in entry.presets.items():
        inside = ", ".join(f"{key}={value}" for key, value in values.items())
        console.print(Text(f"preset {name}" + (f": {inside}" if inside else ""), style="cyan"))
    if entry.parameters:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("parameter", style="bold", no_wrap=True)
        for heading in ("default", "type", "meaning"):
            table.add_column(heading)
        for parameter in entry.parameters:
            default = "required" if parameter.required else "" if parameter.default is None else str(parameter.default)
            table.add_row(parameter.name, default, Text(parameter.type), Text(parameter.description))
        console.print(table)
