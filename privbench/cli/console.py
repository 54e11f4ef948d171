"""Where text goes: results to stdout, progress and notes to stderr."""

import shutil
from collections.abc import Sequence

import click
from rich.console import Console

__all__ = ["notes_console", "results_console", "say", "say_damaged"]

_FILE_WIDTH = 160


def results_console() -> Console:
    """Stdout; wide where it is a file or a pipe, so that no table is cut."""
    console = Console(highlight=False)
    return (
        console if console.is_terminal else Console(highlight=False, width=max(_FILE_WIDTH, shutil.get_terminal_size().columns))
    )


def say(line: str) -> None:
    """A sentence on stdout: on a terminal broken between words, in a file or a pipe as one line."""
    console = results_console()
    if console.is_terminal:
        console.print(line, markup=False, emoji=False)
    else:
        click.echo(line)


def notes_console() -> Console:
    """Stderr."""
    return Console(stderr=True, highlight=False)


def say_damaged(lines: Sequence[str]) -> None:
    """Names on stderr what was left out because it is damaged, and how many files that were."""
    for line in lines:
        click.echo(f"left out: {line}", err=True)
    if lines:
        click.echo(f"{len(lines)} damaged files left out", err=True)
