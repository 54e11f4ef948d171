"""A word on the terminal within a moment of Enter; this module imports nothing that takes time."""

import atexit
import sys
from typing import Any

__all__ = ["at_work"]

_WORDS = "loading …"
_ERASED = "\r\033[K"


def at_work() -> None:
    """Says on a terminal that something happens; whatever is written next, and the end, take its place."""
    if sys.stderr.isatty():
        _Word(sys.stderr, sys.stdout)


class _Word:
    """The word, until a stream is written to.

    Args:
        terminal: Where it stands.
        other: The other stream that may be written to.
    """

    def __init__(self, terminal: Any, other: Any) -> None:
        self._terminal = terminal
        terminal.write(_WORDS)
        terminal.flush()
        self._watched: tuple[Any, ...] = (terminal, other)
        for stream in self._watched:
            stream.write = self._first(stream.write)
        atexit.register(self._erase)

    def _first(self, write: Any) -> Any:
        def written(text: str) -> Any:
            self._erase()
            return write(text)

        return written

    def _erase(self) -> None:
        watched, self._watched = self._watched, ()
        for stream in watched:
            del stream.write
        if watched:
            self._terminal.write(_ERASED)
            self._terminal.flush()
