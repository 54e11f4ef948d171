"""The progress of a run on stderr: a live line on a terminal, an occasional plain line anywhere else."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from privbench.api.watching import Listener, Position, StepReport, case_label, clock, progress_line
from privbench.core import Case, Record
from privbench.core.labels import defense_label

__all__ = ["LiveProgress", "PlainProgress", "QuietProgress", "display"]

_PLAIN_INTERVAL = 10.0
_LIVE_INTERVAL = 0.2


class _Display(Listener):
    """What the displays share."""

    def __init__(self, console: Console, label: Callable[[Case], str] | None = None) -> None:
        self.console = console
        self.label = label or self._label
        self._planned: Mapping[str, str] = {}
        self.position: Position | None = None
        self._noted: set[str] = set()

    def planned(self, cases: Sequence[Case]) -> None:
        """Learns what tells the cases apart: their defenses, and where there are several attacks, these too."""
        several = len({case.attack.name for case in cases}) > 1
        self._planned = {case.identity: case_label(case) if several else defense_label(case) for case in cases}

    def _label(self, case: Case) -> str:
        """What a case is called; the member of an ensemble, which nobody planned, also by its attack."""
        return self._planned.get(case.identity) or case_label(case)

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        """Begins a new position."""
        self.position = Position(case, self.label(case), batches, finished)

    def batch(self, case: Case, batch: int) -> None:
        """Counts the batch as done."""
        if self.position is not None:
            self.position.scored(batch)

    def reused(self, record: Record) -> None:
        """Says that nothing needs to be computed."""
        self.note(f"{self.label(record.case)}: finished before, its record is used (--force computes it again)")

    def note(self, message: str) -> None:
        """Prints a line, once: what is true of every case is not said again."""
        if message not in self._noted:
            self._noted.add(message)
            self._print(message)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        return None


class QuietProgress(_Display):
    """Nothing at all.

    Args:
        console: Where to.
        label: What to call a case; None: what tells it from the others of the command.
    """

    def note(self, message: str) -> None:
        """Says nothing."""


class PlainProgress(_Display):
    """A line per group, per change of phase, and every ten seconds; for files, pipes and logs.

    Args:
        console: Where to.
        label: What to call a case; None: what tells it from the others of the command.
    """

    def __init__(self, console: Console, label: Callable[[Case], str] | None = None) -> None:
        super().__init__(console, label)
        self._last_printed = 0.0
        self._phases: dict[tuple[int, ...], str] = {}

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        """Begins a new position."""
        super().started(case, batches, finished)
        self._phases.clear()

    def step(self, case: Case, at: StepReport) -> None:
        """Prints a line where one is due."""
        if self.position is None:
            return
        self.position.moved(at)
        now = time.perf_counter()
        if self._phases.get(at.batches) != at.phase or now - self._last_printed >= _PLAIN_INTERVAL:
            self._last_printed, self._phases[at.batches] = now, at.phase
            where = self.position
            self._print(f"{where.label}: {where.place}, {at.phase}, {where.loss_text}, {where.time_text}")


class LiveProgress(_Display):
    """One live line with a bar, for terminals.

    Args:
        console: Where to.
        label: What to call a case; None: what tells it from the others of the command.
    """

    def __init__(self, console: Console, label: Callable[[Case], str] | None = None) -> None:
        super().__init__(console, label)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        self._live.update(Text("loading data and model"), refresh=True)
        return self

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        """Begins a new position, and says so before the first step is done."""
        super().started(case, batches, finished)
        self._live.update(Text.assemble((self.label(case), "bold"), ": the attack begins"), refresh=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._live.stop()

    def step(self, case: Case, at: StepReport) -> None:
        """Redraws the line, five times a second at most."""
        if self.position is None:
            return
        self.position.moved(at)
        now = time.perf_counter()
        if now - self._shown >= _LIVE_INTERVAL:
            self._shown = now
            self._live.update(progress_line(self.position, self.console.width), refresh=True)

    def finished(self, record: Record) -> None:
        """Leaves a line of what was done."""
        label = self.label(record.case)
        self._live.update("")
        count = len(record.images)
        self._print(f"{label}: {count} image{'s' if count != 1 else ''} in {clock(record.provenance.seconds)}")


def display(console: Console, *, quiet: bool) -> QuietProgress | LiveProgress | PlainProgress:
    """The display that suits a console.

    Args:
        console: Where to.
        quiet: Notes only.
    """
    kind = QuietProgress if quiet else LiveProgress if console.is_terminal else PlainProgress
    return kind(console)
