"""Interruptions on purpose: Ctrl-C, a scheduler's SIGTERM and a hang-up wait for the next checkpoint, and no work is lost."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["SIGNALS", "Interrupted", "Interruption", "interruptible"]

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
)
"""Those that ask to stop: Ctrl-C, a scheduler, a terminal that was closed."""
_AGAIN = 0.01
"""Seconds after which a signal that met code whose exceptions Python drops is sent once more."""


class Interrupted(KeyboardInterrupt):
    """The user or the scheduler asked to stop.

    Args:
        number: The signal; 0 where the run itself stops an attack because of an error elsewhere.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Interruption:
    """A request to stop, kept until somebody can act on it.

    While every running attack saves now and then, a first signal only sets `requested`, so that each can reach its next
    checkpoint; a second one, or one that comes while something will not be saved, stops at once.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.at_once = False
        self._running: set[object] = set()
        self._saving: set[object] = set()

    @contextmanager
    def attack(self, channel: object) -> Iterator[None]:
        """Around an attack that talks through a channel."""
        self._running.add(channel)
        try:
            yield
        finally:
            self._running.discard(channel)
            self._saving.discard(channel)

    def saves(self, channel: object) -> None:
        """Whoever saves once saves again soon, so from here on a signal can wait for this attack."""
        self._saving.add(channel)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        deferrable = bool(self._running) and self._running <= self._saving
        if deferrable and self.requested is None:
            self.requested = number
            return
        self.stop_at_once(number)
        raise Interrupted(number)

    def stop(self) -> None:
        """Asks the attacks to stop at their next checkpoint."""
        if self.requested is None:
            self.requested = 0

    def stop_at_once(self, number: int = 0) -> None:
        """Asks the attacks to stop wherever they are, without a checkpoint."""
        self.requested, self.at_once = number, True

    def raise_if_requested(self) -> None:
        """Stops now if a stop was requested; call it where everything is saved."""
        if self.requested is not None:
            raise Interrupted(self.requested)

    def raise_if_at_once(self) -> None:
        """Stops now if nothing is to be saved any more."""
        if self.at_once:
            self.raise_if_requested()


_active: Interruption | None = None
"""Whoever has taken the signals over, in the main thread."""


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Takes over the signals inside the block; outside the main thread, where Python allows no handlers, it does not.

    Blocks nest: a command takes the signals over before it loads anything, and the cases in it share its interruption. A
    signal can arrive in a finaliser or a weak reference's callback, out of which Python lets no exception; it is sent again.
    """
    global _active
    if _active is not None and threading.current_thread() is threading.main_thread():
        yield _active
        return
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    # A signal that is ignored, as `nohup` ignores SIGHUP, stays ignored.
    taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interruption.handle) for number in taken}
    _active = interruption
    report, timers = sys.unraisablehook, list[threading.Timer]()

    def send_again(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, Interrupted):
            report(dropped)
            return
        timers.append(threading.Timer(_AGAIN, signal.pthread_kill, [threading.main_thread().ident, dropped.exc_value.number]))
        timers[-1].daemon = True
        timers[-1].start()

    sys.unraisablehook = send_again
    try:
        yield interruption
    finally:
        _active = None
        sys.unraisablehook = report
        for timer in timers:
            timer.cancel()
            timer.join()
        for number, handler in previous.items():
            signal.signal(number, handler)
