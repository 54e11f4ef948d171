"""`privbench schema`: the JSON Schema of what lies on disk."""

import click

import privbench

__all__ = ["schema"]


@click.command()
@click.argument(
    "kind", type=click.Choice(["record", "case", "failure", "utility", "calibration", "identification", "study", "claims"])
)
def schema(kind: str) -> None:
    """Print the JSON Schema (draft 2020-12) of the files of one KIND."""
    click.echo(privbench.json_schema(kind), nl=False)
