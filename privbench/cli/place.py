"""Places of results as the command line takes them: a folder, or a URL that fsspec knows."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["case_at", "config_at", "results_place", "say_damaged", "writable"]


def results_place(value: "str | Path") -> "Store":
    """The type of an option or argument of the command line: the store behind a path or URL."""
    from privbench.store.places import store_at

    return store_at(value)


def say_damaged(lines: Sequence[str]) -> None:
    """Names on stderr what was left out because it is damaged, and how many files that were."""
    for line in lines:
        click.echo(f"left out: {line}", err=True)
    if lines:
        click.echo(f"{len(lines)} damaged files left out", err=True)


@contextmanager
def case_at(text: str, output: "Store", *, everything: bool) -> Iterator[tuple[Path, str]]:
    """The folder of a case, a copy where it lies elsewhere.

    Args:
        text: A case's folder or its URL, or the first letters of its hash.
        output: Where to look for a hash.
        everything: Copy its pictures too.

    Returns:
        The folder, and what to call it.

    Raises:
        UserError: None or several are meant, or the place cannot be read.
    """
    from privbench.store.places import locate_case

    store, name = locate_case(text, output)
    with store.open(name, everything=everything) as folder:
        yield folder / name, store / name


def writable(output: "Store", scratch: Path | None) -> "Store":
    """Where results go, checked; of a URL with its working folder.

    Raises:
        UserError: It cannot be written or reached, or a working folder is given for a folder.
    """
    from privbench.core.errors import UserError
    from privbench.store.url import UrlStore

    if scratch is not None:
        if not isinstance(output, UrlStore):
            raise UserError(f"--scratch is of a URL; --output {output} is a folder")
        output = replace(output, scratch=scratch.resolve())
    output.check()
    return output


@contextmanager
def config_at(place: str | None) -> Iterator[Path | None]:
    """A resolved case as a YAML file: the file itself, or one made of a record.

    Args:
        place: A `case.yaml`, a `record.json`, or a case's folder; on this machine, at a URL or in a pack.

    Raises:
        UserError: There is no such file, or it holds no case.
    """
    if place is None or not (_is_record(place) or "://" in place or ".jsonl.gz/" in place or Path(place).is_dir()):
        yield None if place is None else Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="privbench-") as folder:
        copy = Path(folder) / "case.yaml"
        copy.write_bytes(_case_of(place))
        yield copy


def _is_record(place: str) -> bool:
    return place.endswith(".json") and Path(place).is_file()


def _case_of(place: str) -> bytes:
    """The case that lies at a place, as YAML."""
    from privbench.core import Record
    from privbench.core.errors import UserError
    from privbench.store.case_folder import repeatable
    from privbench.store.layout import CASE, RECORD
    from privbench.store.places import place_of

    if _is_record(place):
        return repeatable(Path(place).parent, Record.load(Path(place))).case.to_yaml().encode()
    store, name = place_of(place.rstrip("/").removesuffix(f"/{CASE}").removesuffix(f"/{RECORD}"))
    if (content := store.read(f"{name}/{CASE}")) is not None:
        return content
    if (content := store.read(f"{name}/{RECORD}")) is None:
        raise UserError(f"there is no case at {place}; give the folder, {CASE} or {RECORD} of a case")
    return Record.parse(content, store / f"{name}/{RECORD}").case.to_yaml().encode()
