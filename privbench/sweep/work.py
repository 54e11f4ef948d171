"""Many cases into one folder: each is computed once, by whoever claims it first.

The store is the queue. A worker goes through all cases, takes those that are neither finished nor claimed by another process,
and comes back for the rest, so that several sweeps, on one machine or on many with a shared folder or a URL, work on one study
without knowing of each other. A case that cannot be computed becomes a file with the reason and does not stop the others.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import torch

from privbench.core import BusyError, Case, ComputeOptions, FailedCase, Record, StoreError, UserError
from privbench.runner.ensemble import run
from privbench.runner.execute import Suites
from privbench.runner.listener import Listener
from privbench.runner.pictures import Draw
from privbench.store.folder import CaseFolder
from privbench.store.remote import Remote

__all__ = ["CaseState", "Ledger", "SweepListener", "Way", "fail", "one_line_of", "standing", "state_of", "work"]

_POLL = 0.5
"""Seconds between looks at cases that other processes compute."""
_POLL_URL = 10.0
"""The same for a URL, once it has been looked at in vain for as long: a look is a request for every case."""


class CaseState(StrEnum):
    """Where a case stands."""

    WAITING = "waiting"
    BEGUN = "begun"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Way:
    """How a sweep computes its cases; goes to worker processes as it is.

    Attributes:
        output: Folder of all cases; with `remote`, its working folder on this machine.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads of a worker.
        lpips_weights: As of `Suites`.
        download: As of `Suites`.
        checkpoint_interval: Seconds between checkpoints at least.
        compute: As of `run_case`.
        draw: As of `run_case`.
        remote: The URL to which cases are published.
    """

    output: Path
    device: str = "cpu"
    threads: int = 1
    lpips_weights: Path | None = None
    download: bool = True
    checkpoint_interval: float = 20.0
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    draw: Draw | None = None
    remote: Remote | None = None


class SweepListener(Listener):
    """Who watches a sweep: what a `Listener` is told of the case that runs, and what becomes of each case."""

    def claimed(self, case: Case) -> None:
        """A worker takes the case up."""

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        """The case is `DONE`, `FAILED` for a reason, or `RUNNING` in another process, whose end is told later."""


def state_of(folder: CaseFolder) -> tuple[CaseState, Record | FailedCase | None]:
    """Where a case stands, with its record or the reason of its failure."""
    if (record := folder.record()) is not None:
        return CaseState.DONE, record
    if folder.is_locked():
        return CaseState.RUNNING, None
    if (failure := folder.failure()) is not None:
        return CaseState.FAILED, failure
    return (CaseState.BEGUN if folder.has_progress() else CaseState.WAITING), None


def standing(case: Case, way: Way) -> tuple[CaseState, Record | FailedCase | None]:
    """Where a case of a sweep stands for all who work on it; of a URL, begun cases are waiting ones.

    Raises:
        StoreError: The URL cannot be read.
    """
    if way.remote is None:
        return state_of(CaseFolder(way.output, case))
    if (found := way.remote.find(case)) is not None:
        return (CaseState.DONE if isinstance(found, Record) else CaseState.FAILED), found
    return (CaseState.RUNNING if way.remote.is_claimed(case) else CaseState.WAITING), None


def fail(case: Case, way: Way, reason: str) -> None:
    """Keeps why a case could not be computed, where all can see it.

    Raises:
        StoreError: The place cannot be written.
    """
    if way.remote is None:
        CaseFolder(way.output, case).fail(reason)
    else:
        way.remote.fail(case, reason)


def work(cases: Sequence[Case], way: Way, listener: SweepListener, *, first: int = 0) -> None:
    """Computes all cases that no other process computes, and waits for those.

    Args:
        cases: What to compute.
        way: How.
        listener: Who watches.
        first: Where to begin, so that workers that start together do not all prepare the same case.

    Raises:
        StoreError: The output folder cannot be written, or the URL not be reached.
        Interrupted: Stopped by a signal.
    """
    torch.set_num_threads(way.threads)
    suites = Suites(way.lpips_weights, download=way.download)
    pending = [*cases[first:], *cases[:first]]
    pause, longest = _POLL, _POLL if way.remote is None else _POLL_URL
    while pending:
        others = []
        for case in pending:
            state, reason = _compute(case, way, suites, listener)
            listener.ended(case, state, reason)
            if state is CaseState.RUNNING:
                others.append(case)
        if len(others) < len(pending):
            pause = _POLL
        else:
            time.sleep(pause)
            pause = min(2 * pause, longest)
        pending = others


def _compute(case: Case, way: Way, suites: Suites, listener: SweepListener) -> tuple[CaseState, str | None]:
    state, found = standing(case, way)
    if state in {CaseState.DONE, CaseState.RUNNING, CaseState.FAILED}:
        return state, found.reason if isinstance(found, FailedCase) else None
    try:
        with nullcontext() if way.remote is None else way.remote.working(case) as found:
            if isinstance(found, FailedCase):
                return CaseState.FAILED, found.reason
            reason = None if found else _compute_here(case, way, suites, listener)
    except BusyError:
        return CaseState.RUNNING, None
    return (CaseState.DONE, None) if reason is None else (CaseState.FAILED, reason)


def _compute_here(case: Case, way: Way, suites: Suites, listener: SweepListener) -> str | None:
    """Computes a case in the output folder; the reason where that cannot be done, which is kept there."""
    listener.claimed(case)
    try:
        run(
            case,
            output=way.output,
            devices=[torch.device(way.device)],
            listener=listener,
            suites=suites,
            draw=way.draw,
            checkpoint_interval=way.checkpoint_interval,
            compute=way.compute,
        )
    except (BusyError, StoreError):
        raise
    except Exception as error:  # whatever it is, the other cases go on
        reason = one_line_of(error)
        CaseFolder(way.output, case).fail(reason)
        return reason
    return None


def one_line_of(error: BaseException) -> str:
    """An error as one line; of errors that are no answers to a user, the kind too."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".rstrip(": ")


class Ledger:
    """Where all cases of a sweep stand, and how long the rest will take.

    Args:
        cases: All cases.
        output: Folder of all cases, or a copy of what lies at a URL.
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

    def remaining(self, workers: int) -> float | None:
        """Seconds until all cases are done, at the mean pace per image of the same attack so far; None before there is one."""
        every = [seconds for paces in self._pace.values() for seconds in paces]
        if not every:
            return None
        open_states = {CaseState.WAITING, CaseState.BEGUN, CaseState.RUNNING}
        total = 0.0
        for identity, case in self.cases.items():
            if self.states[identity] in open_states:
                paces = self._pace.get(case.attack.name, every)
                spent = self._clock() - self._began[identity] if identity in self._began else 0.0
                total += max(sum(paces) / len(paces) * len(case.data.indices) - spent, 0.0)
        return total / max(workers, 1)
