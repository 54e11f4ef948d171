"""Where text goes: results to stdout, progress and notes to stderr."""

import shutil
import sys

from rich.console import Console

__all__ = ["at_work", "notes_console", "results_console"]

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
