"""The progress of a sweep on stderr: all cases, those that run, what failed, the time left."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from privbench.api.watching import CaseState, Position, StepReport, SweepListener, SweepProgress, case_label, clock
from privbench.core import Case

__all__ = ["sweep_progress"]

_PLAIN_INTERVAL = 10.0
_TELLING = 0.1
"""Share of a case from which its own pace tells more of the rest than that of other cases: its first step is compiled."""


class _Display(SweepListener):
    """Keeps where the cases stand; says each note once."""

    def __init__(self, console: Console, cases: SweepProgress, workers: int) -> None:
        self.console = console
        self.cases = cases
        self.workers = workers
        self.positions: dict[str, Position] = {}
        self._noted: set[str] = set()

    def claimed(self, case: Case) -> None:
        self.cases.claimed(case)

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        if case.identity in self.cases.states:
            self.positions[case.identity] = Position(case, case_label(case), batches, finished)

    def step(self, case: Case, at: StepReport) -> None:
        if (position := self.positions.get(case.identity)) is not None:
            position.moved(at)
            self._moved(position)

    def _moved(self, position: Position) -> None:
        """Shows that a case got further."""

    def batch(self, case: Case, batch: int) -> None:
        if (position := self.positions.get(case.identity)) is not None:
            position.scored(batch)

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        before = self.cases.states.get(case.identity)
        self.cases.ended(case, state, reason)
        self.positions.pop(case.identity, None)
        if state is CaseState.FAILED and before is not CaseState.FAILED:
            self.note(f"{case_label(case)} failed: {reason}")

    def note(self, message: str) -> None:
        if message not in self._noted:
            self._noted.add(message)
            self.console.print(message, markup=False, soft_wrap=True)

    def _by_their_own_pace(self) -> dict[str, float]:
        far = {name: one.remaining for name, one in self.positions.items() if one.fraction >= _TELLING}
        return {name: seconds for name, seconds in far.items() if seconds is not None}

    @property
    def text(self) -> str:
        """Where the sweep stands."""
        cases = self.cases
        waiting = cases.count(CaseState.WAITING, CaseState.BEGUN)
        words = [f"{cases.count(CaseState.DONE)} of {len(cases.states)} done"]
        words += [
            f"{number} {word}"
            for number, word in (
                (cases.count(CaseState.RUNNING), "running"),
                (waiting, "waiting"),
                (cases.count(CaseState.FAILED), "failed"),
            )
            if number
        ]
        remaining = cases.remaining(self.workers, self._by_their_own_pace())
        if remaining is not None and remaining > 0:
            words.append(f"{clock(remaining)} left")
        return ", ".join(words)


class _Plain(_Display):
    """A line when a case ends and every ten seconds."""

    def __init__(self, console: Console, cases: SweepProgress, workers: int) -> None:
        super().__init__(console, cases, workers)
        self._last_printed = time.monotonic()

    def _say(self, line: str) -> None:
        self._last_printed = time.monotonic()
        self.console.print(line, markup=False, soft_wrap=True)

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        before = self.cases.states.get(case.identity)
        super().ended(case, state, reason)
        if state is CaseState.DONE and before is not CaseState.DONE:
            self._say(f"{case_label(case)}: done; {self.text}")

    def _moved(self, position: Position) -> None:
        if time.monotonic() - self._last_printed >= _PLAIN_INTERVAL:
            self._say(f"{position.label}: {position.place}, {position.phase}; {self.text}")


class _Live(_Display):
    """A bar for the sweep and one for each case that runs."""

    def __init__(self, console: Console, cases: SweepProgress, workers: int, progress: Progress) -> None:
        super().__init__(console, cases, workers)
        self._progress = progress
        self._total = progress.add_task("sweep", total=len(cases.states), detail="")
        self._bars: dict[str, TaskID] = {}
        self._draw()

    def _draw(self) -> None:
        ended = self.cases.count(CaseState.DONE, CaseState.FAILED)
        self._progress.update(self._total, completed=ended, detail=self.text)

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        super().started(case, batches, finished)
        if case.identity in self.positions:
            self._bars[case.identity] = self._progress.add_task(case_label(case), total=1.0, detail="")
        self._draw()

    def _moved(self, position: Position) -> None:
        if (bar := self._bars.get(position.case.identity)) is not None:
            self._progress.update(bar, completed=position.fraction, detail=f"{position.place}, {position.phase}")

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        super().ended(case, state, reason)
        if (bar := self._bars.pop(case.identity, None)) is not None:
            self._progress.remove_task(bar)
        self._draw()


@contextmanager
def sweep_progress(console: Console, cases: SweepProgress, *, workers: int) -> Iterator[SweepListener]:
    """Shows a sweep: live on a terminal, an occasional line anywhere else.

    Args:
        console: Where to.
        cases: Where the cases stand; kept up to date from here on.
        workers: How many cases are computed at a time.
    """
    if not console.is_terminal:
        yield _Plain(console, cases, workers)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Live(console, cases, workers, progress)
