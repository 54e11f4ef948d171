"""Progress in a notebook: one line that rich draws, and below it what the attack has by now.

Both outputs are replaced in place, so that a finished run leaves its results and nothing else.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.text import Text
from torch import Tensor

from privbench.core import Case, Record
from privbench.runner.listener import Listener, StepReport
from privbench.watch.line import progress_line
from privbench.watch.live_page import LiveView
from privbench.watch.position import clock

__all__ = ["NotebookDisplay", "in_notebook"]

_COLUMNS = 100
_LINE_INTERVAL = 0.2
_PICTURE_INTERVAL = 1.0
_STYLE = (
    "<style>.privbench-live img {width: 6rem; height: 6rem; image-rendering: pixelated; object-fit: contain}"
    ".privbench-live figure {display: inline-block; margin: .3rem} .privbench-live svg {width: 100%; height: 5rem}"
    ".privbench-live polyline {fill: none; stroke: currentColor; vector-effect: non-scaling-stroke}</style>"
)


def in_notebook() -> bool:
    """Whether this is a cell of a notebook, which shows HTML."""
    python = sys.modules.get("IPython")
    shell = None if python is None else python.get_ipython()
    return getattr(shell, "kernel", None) is not None


class NotebookDisplay(Listener):
    """A line of progress, and the live view below it.

    Args:
        pictures: Whether to show the live view.
    """

    def __init__(self, *, pictures: bool = True) -> None:
        self._pictures = pictures
        self._view: LiveView | None = None
        self._line: Any = None
        self._below: Any = None
        self._lines = self._shown = 0.0
        self._noted: set[str] = set()

    def planned(self, cases: Sequence[Case]) -> None:
        """Says at once that something happens."""
        self._say(Text("loading data and model"))

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        """Begins a case."""
        self._view = LiveView(case, batches, finished)
        self._say(Text.assemble((self._view.where.label, "bold"), ": the attack begins"))

    def step(self, case: Case, at: StepReport) -> None:
        """Replaces line and view where they are due."""
        if self._view is None:
            return
        self._view.moved(at)
        now = time.perf_counter()
        if now - self._lines >= _LINE_INTERVAL:
            self._lines = now
            self._say(progress_line(self._view.where, _COLUMNS))
        if self._view.guesses and now - self._shown >= _PICTURE_INTERVAL:
            self._shown = now
            self._show(self._view.body())

    def picture(self, case: Case, batches: Sequence[int], guesses: Sequence[Tensor]) -> None:
        """Keeps the guesses."""
        if self._view is not None:
            self._view.guesses.update(zip(batches, guesses, strict=True))

    def batch(self, case: Case, batch: int) -> None:
        """Counts the batch as done."""
        if self._view is not None:
            self._view.where.scored(batch)

    def note(self, message: str) -> None:
        """Prints a line, once."""
        if message not in self._noted:
            self._noted.add(message)
            sys.stderr.write(f"{message}\n")

    def finished(self, record: Record) -> None:
        """Says what was done, and takes the view away: the results have the pictures."""
        label = self._view.where.label if self._view is not None else record.case.folder
        count = len(record.images)
        self._say(Text(f"{label}: {count} image{'s' if count != 1 else ''} in {clock(record.provenance.seconds)}"))
        self._line = None
        if self._below is not None:
            self._show("")
            self._below = None

    def _say(self, line: Any) -> None:
        from IPython.display import display

        if self._line is None:
            self._line = display(line, display_id=True)
        else:
            self._line.update(line)

    def _show(self, body: str) -> None:
        from IPython.display import HTML, display

        if not self._pictures:
            return
        page = HTML(f'{_STYLE}<div class="privbench-live">{body}</div>' if body else "")
        if self._below is None:
            self._below = display(page, display_id=True)
        else:
            self._below.update(page)
