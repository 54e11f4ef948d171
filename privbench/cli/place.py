"""Places of results as the command line takes them: a folder, or a URL that fsspec knows."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["case_at", "config_at", "results_place", "writable"]


def results_place(value: "str | Path") -> "Store":
    """The type of an option or argument of the command line: the store behind a path or URL."""
    from privbench.store.places import store_at

    return store_at(value)


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
    """The file of a resolved case, a copy where it lies at a URL.

    Raises:
        UserError: The URL cannot be read, or has no such file.
    """
    from privbench.core.errors import UserError
    from privbench.store.places import store_at

    if place is None or "://" not in place:
        yield None if place is None else Path(place)
        return
    above, _, name = place.rpartition("/")
    if (content := store_at(above).read(name)) is None:
        raise UserError(f"there is no file {place}; give the case.yaml of a case")
    with tempfile.TemporaryDirectory(prefix="privbench-") as folder:
        copy = Path(folder) / name
        copy.write_bytes(content)
        yield copy
