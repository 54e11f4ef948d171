"""Many cases into one store: each is computed once, by the first process that takes it.

A worker goes through all cases, takes those that are neither finished nor locked by another process, and comes back for the
rest, so that several processes with one folder work on one study without knowing of each other. A case that cannot be computed
becomes a file with the reason and does not stop the others.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from privbench.core import BusyError, Case, ComputeOptions, FailedCase, StoreError, UserError
from privbench.runner.ensemble import run
from privbench.runner.listener import Broadcast, Listener
from privbench.runner.pictures import Draw
from privbench.runner.suites import Suites
from privbench.store.base import Store
from privbench.store.case_folder import CaseFolder
from privbench.sweep.status import CaseState, state_in
from privbench.watch.logs import LogListener

__all__ = ["SweepListener", "SweepOptions", "fail", "one_line_of", "work"]

_POLL = 0.5
"""Seconds between looks at cases that other processes compute."""


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep computes its cases; goes to worker processes as it is.

    Attributes:
        store: Where they go.
        compute: As of `run_case`; a worker uses the first device.
        lpips_weights: As of `Suites`.
        download: As of `Suites`.
        draw: As of `run_case`.
        loggers: Registered loggers that each worker reports its cases to.
    """

    store: Store
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    lpips_weights: Path | None = None
    download: bool = True
    draw: Draw | None = None
    loggers: tuple[str, ...] = ()


class SweepListener(Listener):
    """Who watches a sweep: what a `Listener` is told of the case that runs, and what becomes of each case."""

    def claimed(self, case: Case) -> None:
        """A worker takes the case up."""

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        """The case is `DONE`, `FAILED` for a reason, or `RUNNING` in another process, whose end is told later."""


def fail(case: Case, options: SweepOptions, reason: str) -> None:
    """Keeps why a case could not be computed, where all can see it.

    Raises:
        StoreError: The place cannot be written.
    """
    CaseFolder(options.store.working, case).fail(reason)
    options.store.publish(case)


def work(cases: Sequence[Case], options: SweepOptions, listener: SweepListener, *, first: int = 0) -> None:
    """Computes all cases that no other process computes, and waits for those.

    Args:
        cases: What to compute.
        options: How.
        listener: Who watches.
        first: Where to begin, so that workers that start together do not all prepare the same case.

    Raises:
        StoreError: The store cannot be written or reached.
        Interrupted: Stopped by a signal.
    """
    torch.set_num_threads(options.compute.threads or 1)
    suites = Suites(options.lpips_weights, download=options.download)
    pending = [*cases[first:], *cases[:first]]
    while pending:
        others: list[Case] = []
        for case in pending:
            state, reason = _compute(case, options, suites, listener)
            listener.ended(case, state, reason)
            if state is CaseState.RUNNING:
                others.append(case)
            else:
                others = [other for other in others if not _ended_elsewhere(other, options, listener)]
        if len(others) == len(pending):
            time.sleep(_POLL)
        pending = others


def _ended_elsewhere(case: Case, options: SweepOptions, listener: SweepListener) -> bool:
    """Whether another process has ended a case, which is told at once: the next turn may be hours away."""
    state, found = state_in(options.store, case)
    if state not in {CaseState.DONE, CaseState.FAILED}:
        return False
    listener.ended(case, state, found.reason if isinstance(found, FailedCase) else None)
    return True


def _compute(case: Case, options: SweepOptions, suites: Suites, listener: SweepListener) -> tuple[CaseState, str | None]:
    state, found = state_in(options.store, case)
    if state in {CaseState.DONE, CaseState.RUNNING, CaseState.FAILED}:
        return state, found.reason if isinstance(found, FailedCase) else None
    try:
        reason = _compute_here(case, options, suites, listener)
    except BusyError:
        return CaseState.RUNNING, None
    options.store.publish(case)
    return (CaseState.DONE, None) if reason is None else (CaseState.FAILED, reason)


def _compute_here(case: Case, options: SweepOptions, suites: Suites, listener: SweepListener) -> str | None:
    """Computes a case in the working folder; the reason where that cannot be done, which is kept there."""
    listener.claimed(case)
    output = options.store.working
    logs = LogListener(options.loggers, output, listener.note)
    try:
        run(
            case,
            output=output,
            listener=Broadcast(listener, logs) if options.loggers else listener,
            suites=suites,
            draw=options.draw,
            compute=options.compute,
        )
    except (BusyError, StoreError):
        raise
    except Exception as error:  # whatever it is, the other cases go on
        reason = one_line_of(error)
        CaseFolder(output, case).fail(reason)
        return reason
    finally:
        logs.close()
    return None


def one_line_of(error: BaseException) -> str:
    """An error as one line; of errors that are no answers to a user, the kind too."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".rstrip(": ")
