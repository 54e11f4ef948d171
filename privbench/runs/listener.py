"""What a run tells whoever watches it: the progress display of the command line, a notebook, or nobody."""

from collections.abc import Mapping

from privbench.core import Case, Record

__all__ = ["Listener"]


class Listener:
    """Whoever watches a run; the defaults do nothing."""

    def started(self, case: Case, batches: int) -> None:
        """A case begins or continues; it has so many client batches."""

    def reused(self, record: Record) -> None:
        """The case was finished before; its record is used."""

    def batch(self, case: Case, batch: int) -> None:
        """The attack on one client batch begins or continues."""

    def step(self, case: Case, batch: int, step: int, total: int, phase: str, losses: Mapping[str, float]) -> None:
        """The attack on a batch stands at `step` of `total`, in `phase` of its schedule, with these losses."""

    def note(self, message: str) -> None:
        """Something that the user should know, in one line."""

    def finished(self, record: Record) -> None:
        """The record is written."""
