"""The progress of a run on stderr: a live line on a terminal, an occasional plain line anywhere else."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from privbench.core import Case, Record
from privbench.core.labels import defense_label
from privbench.runner.listener import Listener, StepReport

__all__ = ["LiveProgress", "PlainProgress", "Position", "QuietProgress", "clock", "display"]

_PLAIN_INTERVAL = 10.0
_LIVE_INTERVAL = 0.2
_WIDE = 110
"""A terminal of fewer columns gets a shorter line."""
_SHORT_NAME = 24
_SHORT_BAR = 10


def clock(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Position:
    """Where a case stands, and how long the rest will take at the pace so far.

    Args:
        case: The case.
        label: How the display calls it.
        batches: Number of client batches.
        finished: Which of them are finished already.
    """

    def __init__(self, case: Case, label: str, batches: int, finished: Sequence[int] = ()) -> None:
        self.case = case
        self.label = label
        self.batches = batches
        self.group: Sequence[int] = (0,)
        self.step = 0
        self.total = 1
        self.phase = ""
        self.losses: Mapping[str, float] = {}
        self._done = dict.fromkeys(finished, 1.0)
        self._began = time.perf_counter()
        self._start: float | None = None

    def moved(self, at: StepReport) -> None:
        """Takes a report of the attack on a group of batches."""
        self.group, self.step, self.total, self.phase = at.batches, at.step, max(at.total, 1), at.phase
        self.losses = _means(at.losses)
        self._done.update(dict.fromkeys(at.batches, min(at.step / self.total, 1.0)))
        if self._start is None:
            # A continued case does not begin at 0; the pace counts from here.
            self._start = self.fraction
            self._began = time.perf_counter()

    def scored(self, batch: int) -> None:
        """Takes the end of a batch, which an attack that fails reaches before its last step."""
        self._done[batch] = 1.0

    @property
    def fraction(self) -> float:
        """Share of the case that is done, in [0, 1]."""
        return sum(self._done.values()) / self.batches

    @property
    def elapsed(self) -> float:
        """Seconds in this session."""
        return time.perf_counter() - self._began

    @property
    def remaining(self) -> float | None:
        """Seconds to go, None before there is a pace."""
        done = self.fraction - (self._start or 0.0)
        return self.elapsed * (1 - self.fraction) / done if done > 0 else None

    @property
    def place(self) -> str:
        """Which images or batches of how many, and which step."""
        word, words = ("image", "images") if self.case.batch_size == 1 else ("batch", "batches")
        which = _ranges([batch + 1 for batch in self.group])
        return f"{word if len(self.group) == 1 else words} {which}/{self.batches}, step {self.step}/{self.total}"

    @property
    def loss_text(self) -> str:
        """The losses, means over the group, three digits each."""
        return "  ".join(f"{name} {value:.3g}" for name, value in self.losses.items())

    @property
    def time_text(self) -> str:
        """Elapsed and remaining time."""
        remaining = self.remaining
        return clock(self.elapsed) + (f", {clock(remaining)} left" if remaining is not None else "")


def _means(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each loss over those that have it; one that failed does not hide the others."""
    means = {}
    for name in dict.fromkeys(name for mapping in losses for name in mapping):
        values = [mapping[name] for mapping in losses if name in mapping]
        finite = [value for value in values if math.isfinite(value)]
        means[name] = sum(finite) / len(finite) if finite else values[0]
    return means


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as `1-3,5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _full_label(case: Case) -> str:
    return f"{defense_label(case)}, {case.attack.name} ({case.threat_model.adversary})"


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
        self._planned = {case.identity: _full_label(case) if several else defense_label(case) for case in cases}

    def _label(self, case: Case) -> str:
        """What a case is called; the member of an ensemble, which nobody planned, also by its attack."""
        return self._planned.get(case.identity) or _full_label(case)

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
            self._live.update(self._line(self.position), refresh=True)

    def finished(self, record: Record) -> None:
        """Leaves a line of what was done."""
        label = self.label(record.case)
        self._live.update("")
        self._print(f"{label}: {len(record.images)} images in {clock(record.provenance.seconds)}")

    def _line(self, where: Position) -> Table:
        if self.console.width < _WIDE:
            return self._short_line(where)
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(width=20)
        for _ in range(3):
            line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        line.add_row(
            Text(where.label, style="bold"),
            ProgressBar(total=1.0, completed=where.fraction, width=20),
            where.place,
            where.time_text,
            where.loss_text,
            Text(where.phase, style="cyan"),
        )
        return line

    def _short_line(self, where: Position) -> Table:
        """What must be seen first: which case, how far, how long; then losses and phase as far as there is room."""
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True, overflow="ellipsis", max_width=_SHORT_NAME)
        line.add_column(width=_SHORT_BAR)
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        remaining = where.remaining
        line.add_row(
            Text(where.label, style="bold"),
            ProgressBar(total=1.0, completed=where.fraction, width=_SHORT_BAR),
            f"{where.step}/{where.total}",
            f"{clock(remaining)} left" if remaining is not None else clock(where.elapsed),
            Text.assemble(where.loss_text, "  ", (where.phase, "cyan")),
        )
        return line


def display(console: Console, *, quiet: bool) -> QuietProgress | LiveProgress | PlainProgress:
    """The display that suits a console.

    Args:
        console: Where to.
        quiet: Notes only.
    """
    kind = QuietProgress if quiet else LiveProgress if console.is_terminal else PlainProgress
    return kind(console)
