"""Somebody who watches a run, and what two runs must have in common."""

import json
from collections.abc import Sequence
from typing import Any

from privbench.core import Case, Record
from privbench.runner.listener import Listener, StepReport


class Watcher(Listener):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.notes: list[str] = []

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        self.events.append(f"started {batches}")

    def reused(self, record: Record) -> None:
        self.events.append("reused")

    def group(self, case: Case, batches: Sequence[int]) -> None:
        self.events.append(f"group {_listed(batches)}")

    def step(self, case: Case, at: StepReport) -> None:
        self.events.append(f"step {_listed(at.batches)}.{at.step}/{at.total}")
        self.at(at.batches, at.step)

    def at(self, batches: Sequence[int], step: int) -> None:
        """For tests in which something happens at a step."""

    def batch(self, case: Case, batch: int) -> None:
        self.events.append(f"batch {batch}")

    def note(self, message: str) -> None:
        self.notes.append(message)

    def finished(self, record: Record) -> None:
        self.events.append("finished")


class PowerCut(Watcher):
    """Ends the run at a step of the group that begins with a batch."""

    def __init__(self, first: int, step: int) -> None:
        super().__init__()
        self.where = first, step

    def at(self, batches: Sequence[int], step: int) -> None:
        if (batches[0], step) == self.where:
            raise SystemExit


def results(record: Record) -> dict[str, Any]:
    """A record without what a clock or a machine decides."""
    content: dict[str, Any] = json.loads(record.to_json())
    del content["provenance"]
    for image in content["images"]:
        del image["seconds"]
    return content


def _listed(batches: Sequence[int]) -> str:
    return ",".join(map(str, batches))
