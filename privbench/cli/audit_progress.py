"""The progress of an audit on stderr: one live line on a terminal, a line every ten seconds anywhere else."""

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from privbench.api.watching import clock

__all__ = ["AuditLine"]

_LIVE_INTERVAL, _PLAIN_INTERVAL = 0.2, 10.0


class AuditLine:
    """Where the attack at work stands.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown = time.perf_counter()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Prints a line."""
        self._console.print(line, markup=False, soft_wrap=not self._console.is_terminal)

    def step(self, label: str, step: int, total: int, left: float) -> None:
        """Shows a step where one is due."""
        now = time.perf_counter()
        if now - self._shown < (_PLAIN_INTERVAL if self._live is None else _LIVE_INTERVAL):
            return
        self._shown = now
        text = f"{label}: {step}/{total}" + ("" if math.isnan(left) else f", {clock(left)} left")
        if self._live is None:
            self.say(text)
        else:
            self._live.update(Text(text), refresh=True)
