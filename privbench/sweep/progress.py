"""Where all cases of a sweep stand while it runs, and how long the rest will take."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from privbench.core import Case, FailedCase, Record
from privbench.store.case_folder import CaseFolder
from privbench.sweep.status import CaseState, state_of

__all__ = ["SweepProgress"]


class SweepProgress:
    """The states of all cases of a sweep.

    Args:
        cases: All cases.
        output: Folder of all cases, or a copy of it.
        clock: Seconds; replaced in tests.
    """

    def __init__(self, cases: Sequence[Case], output: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.cases = {case.identity: case for case in cases}
        self.states: dict[str, CaseState] = {}
        self.reasons: dict[str, str] = {}
        self._clock = clock
        self._began: dict[str, float] = {}
        self._pace: dict[str, list[float]] = {}
        for case in cases:
            state, found = state_of(CaseFolder(output, case))
            self.states[case.identity] = state
            if isinstance(found, Record):
                self._learn(case, found.provenance.seconds)
            if isinstance(found, FailedCase):
                self.reasons[case.identity] = found.reason

    def count(self, *states: CaseState) -> int:
        """How many cases stand in one of these states."""
        return sum(state in states for state in self.states.values())

    def claimed(self, case: Case) -> None:
        """Takes the begin of a case."""
        self.states[case.identity] = CaseState.RUNNING
        self._began[case.identity] = self._clock()

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        """Takes the end of a case."""
        began = self._began.pop(case.identity, None)
        if state is CaseState.DONE and began is not None:
            self._learn(case, self._clock() - began)
        self.states[case.identity] = state
        if reason is not None:
            self.reasons[case.identity] = reason

    def _learn(self, case: Case, seconds: float) -> None:
        self._pace.setdefault(case.attack.name, []).append(max(seconds, 0.0) / len(case.data.indices))

    def remaining(self, workers: int, running: Mapping[str, float] | None = None) -> float | None:
        """Seconds until all cases are done, at the mean pace per image of the same attack so far; None before there is one.

        Args:
            workers: Cases that are computed at a time.
            running: Seconds that cases which run still take by their own pace, by identity.
        """
        every = [seconds for paces in self._pace.values() for seconds in paces]
        open_states, own = {CaseState.WAITING, CaseState.BEGUN, CaseState.RUNNING}, running or {}
        total = 0.0
        for identity, case in self.cases.items():
            if self.states[identity] not in open_states:
                continue
            if identity in own:
                total += own[identity]
            elif every:
                paces = self._pace.get(case.attack.name, every)
                spent = self._clock() - self._began[identity] if identity in self._began else 0.0
                total += max(fmean(paces) * len(case.data.indices) - spent, 0.0)
            else:
                return None
        return total / max(workers, 1)
