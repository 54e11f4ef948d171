"""Interruptions on purpose: Ctrl-C and a scheduler's SIGTERM wait for the next checkpoint instead of losing the work."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Interruption", "interruptible"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The user or the scheduler asked to stop.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Interruption:
    """A request to stop, kept until somebody can honour it.

    While `deferrable` is set a first signal only sets `requested`, so that an attack can reach its next checkpoint; a second
    one, or one that comes while nothing will be saved, stops at once.
    """

    def __init__(self) -> None:
        self.deferrable = False
        self.requested: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.deferrable and self.requested is None:
            self.requested = number
            return
        raise Interrupted(number)

    def honour(self) -> None:
        """Stops now if a stop was requested; call it where everything is saved."""
        if self.requested is not None:
            raise Interrupted(self.requested)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Takes over SIGINT and SIGTERM inside the block; outside the main thread, where Python allows no handlers, it does not."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    previous = {number: signal.signal(number, interruption.handle) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
