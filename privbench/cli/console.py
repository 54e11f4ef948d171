"""Where text goes: results to stdout, progress and notes to stderr."""

import shutil
import sys
from collections.abc import Sequence

import click
from rich.console import Console

__all__ = ["at_work", "notes_console", "results_console", "say_damaged"]

_FILE_WIDTH = 160


def results_console() -> Console:
    """Stdout; wide where it is a file or a pipe, so that no table is cut."""
    console = Console(highlight=False)
    return (
        console if console.is_terminal else Console(highlight=False, width=max(_FILE_WIDTH, shutil.get_terminal_size().columns))
    )


def notes_console() -> Console:
    """Stderr."""
    return Console(stderr=True, highlight=False)


def at_work(words: str, *, quiet: bool) -> None:
    """Says at once on a terminal that something happens; the next line of stderr takes its place."""
    if not quiet and sys.stderr.isatty():
        sys.stderr.write(f"{words} …\r")
        sys.stderr.flush()


def say_damaged(lines: Sequence[str]) -> None:
    """Names on stderr what was left out because it is damaged, and how many files that were."""
    for line in lines:
        click.echo(f"left out: {line}", err=True)
    if lines:
        click.echo(f"{len(lines)} damaged files left out", err=True)
