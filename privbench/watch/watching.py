"""Everybody who watches a run, told in turn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from privbench.runner.listener import Broadcast, Listener
from privbench.watch.live_page import LivePage
from privbench.watch.logs import LogListener
from privbench.watch.notebook import NotebookDisplay, in_notebook

__all__ = ["watching"]


@contextmanager
def watching(folder: Path, listener: Listener | None, *, live: bool | None, loggers: Sequence[str] = ()) -> Iterator[Listener]:
    """Who is told of a run; in a notebook where nobody watches, its display.

    Args:
        folder: Of all cases, on this machine.
        listener: Who watches besides.
        live: Whether to keep the page that shows the attack while it runs; None: in a notebook.
        loggers: Registered loggers to report to.
    """
    notebook = in_notebook()
    live = notebook if live is None else live
    first = listener or (NotebookDisplay(pictures=live) if notebook else Listener())
    logs = LogListener(loggers, folder, first.note)
    try:
        yield Broadcast(first, *([LivePage(folder, first.note)] if live else []), *([logs] if loggers else []))
    finally:
        logs.close()
