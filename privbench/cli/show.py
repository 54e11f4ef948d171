"""`privbench show`: one case."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import case_at, results_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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

    with case_at(_place_here(case, output), output, everything=True) as (path, name):
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


_DEPTH = 5
"""So many folders down a case is looked for."""


def _place_here(text: str, output: "Store") -> str:
    """What the user means: a hash that is not in `output` is looked for in every folder below this one.

    Raises:
        UserError: It is in none, or in several.
    """
    from privbench.core import UserError
    from privbench.store.places import case_names

    is_hash = re.fullmatch(r"[0-9a-f]{1,12}", text) is not None and not Path(text).exists()
    if not is_hash or any(name.rpartition("--")[2].startswith(text) for name in _names(case_names, output)):
        return text
    here = Path()
    found = [path for path in _folders(here, _DEPTH) if path.name.rpartition("--")[2].startswith(text) and "--" in path.name]
    if not found:
        raise UserError(
            f"no case '{text}' in {output}, nor in any folder below {here.absolute()}; accepted: a case's folder, or the first "
            "letters of its hash, with --output where its results lie elsewhere"
        )
    if len(found) > 1:
        raise UserError(f"'{text}' means {len(found)} cases ({', '.join(map(str, found[:3]))}); give more letters, or a folder")
    return str(found[0])


def _names(case_names: "Callable[[Store], Iterable[str]]", output: "Store") -> list[str]:
    from privbench.core import UserError

    try:
        return list(case_names(output))
    except UserError:
        # There is no such folder yet: the case may lie in another.
        return []


def _folders(place: Path, depth: int) -> Iterator[Path]:
    """Folders below a place, none of them hidden, without what lies in a case's folder."""
    try:
        below = sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return
    for path in below:
        if path.name.startswith(".") or path.name in {"node_modules", "site-packages"}:
            continue
        yield path
        if depth > 1 and "--" not in path.name:
            yield from _folders(path, depth - 1)


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
