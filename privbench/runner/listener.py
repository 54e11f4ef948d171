"""What a run tells whoever watches it: the progress display of the command line, a notebook, or nobody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from privbench.core import Case, Record

__all__ = ["Broadcast", "Listener", "StepReport"]


@dataclass(frozen=True)
class StepReport:
    """Where the attack on a group of client batches stands.

    Attributes:
        batches: The group.
        step: Steps done.
        total: Of how many.
        phase: Of the attack's schedule.
        losses: One mapping of names to values for each batch.
    """

    batches: tuple[int, ...]
    step: int
    total: int
    phase: str
    losses: tuple[Mapping[str, float], ...]


class Listener:
    """Whoever watches a run; the defaults do nothing. No two of these are called at the same time."""

    def planned(self, cases: Sequence[Case]) -> None:
        """What is to be computed, before the first case begins."""

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        """A case begins or continues; it has so many client batches, and some may be finished already."""

    def reused(self, record: Record) -> None:
        """The case was finished before; its record is used."""

    def group(self, case: Case, batches: Sequence[int]) -> None:
        """The attack on some client batches, taken together, begins or continues."""

    def step(self, case: Case, at: StepReport) -> None:
        """The attack on a group got further; with several devices, reports of several groups come in turn."""

    def picture(self, case: Case, batches: Sequence[int], guesses: Sequence[Tensor]) -> None:
        """What the attack has by now of each batch of a group, `[batch, 3, height, width]` uint8."""

    def batch(self, case: Case, batch: int) -> None:
        """One client batch is attacked, scored and kept."""

    def note(self, message: str) -> None:
        """Something that the user should know, in one line."""

    def finished(self, record: Record) -> None:
        """The record is written."""


class Broadcast(Listener):
    """Tells several listeners, in order.

    Args:
        listeners: Who watches.
    """

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners

    def planned(self, cases: Sequence[Case]) -> None:
        """Tells all."""
        for one in self.listeners:
            one.planned(cases)

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        """Tells all."""
        for one in self.listeners:
            one.started(case, batches, finished)

    def reused(self, record: Record) -> None:
        """Tells all."""
        for one in self.listeners:
            one.reused(record)

    def group(self, case: Case, batches: Sequence[int]) -> None:
        """Tells all."""
        for one in self.listeners:
            one.group(case, batches)

    def step(self, case: Case, at: StepReport) -> None:
        """Tells all."""
        for one in self.listeners:
            one.step(case, at)

    def picture(self, case: Case, batches: Sequence[int], guesses: Sequence[Tensor]) -> None:
        """Tells all."""
        for one in self.listeners:
            one.picture(case, batches, guesses)

    def batch(self, case: Case, batch: int) -> None:
        """Tells all."""
        for one in self.listeners:
            one.batch(case, batch)

    def note(self, message: str) -> None:
        """Tells all."""
        for one in self.listeners:
            one.note(message)

    def finished(self, record: Record) -> None:
        """Tells all."""
        for one in self.listeners:
            one.finished(record)
