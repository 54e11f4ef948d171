"""Folders of results as the command line takes them: a path, or a URL that fsspec knows."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privbench.store.remote import Remote

__all__ = ["case_at", "config_at", "in_scratch", "path_or_url"]


def path_or_url(value: "str | Path") -> "Path | Remote":
    """The type of an option or argument of the command line: a `Path`, or where there is `://` a `Remote`."""
    if "://" not in str(value):
        return Path(value)
    from privbench.store.remote import Remote

    return Remote(str(value))


@contextmanager
def case_at(text: str, output: "Path | Remote", *, everything: bool) -> Iterator[tuple[Path, str]]:
    """The folder of a case, a copy where it lies at a URL.

    Args:
        text: A case's folder or its URL, or the first letters of its hash.
        output: Where to look for a hash.
        everything: Copy its pictures too.

    Returns:
        The folder, and what to call it.

    Raises:
        UserError: None or several are meant, or the URL cannot be read.
    """
    from privbench.store.remote import Remote, fetched
    from privbench.sweep.survey import find_case

    if "://" in text:
        above, _, below = text.rstrip("/").rpartition("/")
        output = Remote(above)
    elif isinstance(output, Path):
        found = find_case(text, output)
        yield found, str(found)
        return
    else:
        with fetched(output) as copy:
            below = find_case(text, copy).relative_to(copy).as_posix()
    with fetched(output, everything=everything, below=below) as copy:
        yield copy / below, f"{output}/{below}"


def in_scratch(output: "Path | Remote", scratch: Path | None, lease: float | None = None) -> "Path | Remote":
    """Where results go: checked, and of a URL, with its working folder and the time after which claims end.

    Raises:
        UserError: It cannot be written or reached, or what is said of URLs is said of a folder.
    """
    from privbench.core import UserError
    from privbench.store.folder import check_output

    if isinstance(output, Path):
        if scratch is not None or lease is not None:
            raise UserError(f"--{'lease' if scratch is None else 'scratch'} is of a URL; --output {output} is a folder")
        check_output(output)
        return output
    if scratch is not None:
        output = replace(output, scratch=scratch.resolve())
    if lease is not None:
        output = replace(output, lease=lease)
    check_output(output.folder)
    output.check()
    return output


@contextmanager
def config_at(place: "Path | Remote | None") -> Iterator[Path | None]:
    """The file of a resolved case, a copy where it lies at a URL.

    Raises:
        UserError: The URL cannot be read, or has no such file.
    """
    from privbench.core import UserError
    from privbench.store.remote import Remote

    if not isinstance(place, Remote):
        yield place
        return
    above, _, name = place.url.rpartition("/")
    if (content := Remote(above).read(name)) is None:
        raise UserError(f"there is no file {place}; give the case.yaml of a case")
    with tempfile.TemporaryDirectory(prefix="privbench-") as folder:
        copy = Path(folder) / name
        copy.write_bytes(content)
        yield copy
