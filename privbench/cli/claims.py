"""`privbench claims`: claims of the field, judged by records, as a page."""

from pathlib import Path

import click

import privbench

__all__ = ["claims"]


@click.command()
@click.argument("definitions", type=click.Path(path_type=Path))
@click.argument("results", type=click.STRING, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("claims.md"), show_default=True, help="File to write."
)
def claims(definitions: Path, results: tuple[str, ...], output: Path) -> None:
    """Judge the claims of DEFINITIONS, a YAML file, by all records and utility reports below RESULTS, folders, URLs or packs.

    A verdict follows from paired differences with 95 % bootstrap intervals: holds, does not hold, holds only for unaware
    attackers, inconclusive, or not measured. The page has a table and a section for each claim with its commands; equal records
    give equal bytes.
    """
    judgements = privbench.judge_claims(definitions, results, output)
    for judgement in judgements:
        click.echo(f"{judgement.verdict:33} {judgement.hypothesis.id}")
    click.echo(f"{len(judgements)} claims -> {output}")
