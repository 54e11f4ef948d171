"""The launchers of a sweep on one machine: this process, or several.

Both run `work`, where the first process that takes a case has it. A worker that is killed is replaced, and a
case during which workers were killed twice is a failed one.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

import torch

from privbench.computing.interrupt import SIGNALS, Interrupted, interruptible
from privbench.core import Case, StoreError, UserError
from privbench.runner.listener import StepReport
from privbench.sweep.status import CaseState
from privbench.sweep.work import SweepListener, SweepOptions, fail, work

__all__ = ["DEATHS", "BudgetUsedError", "died_reason", "in_processes", "run_inline"]

DEATHS = 2
"""A case during which so many workers were killed has failed."""
_FALSE_STARTS = 3
"""So many workers in a row that end before they take up a case are no accident."""
_LOOK = 0.5
"""Seconds between looks at the clock while nothing is reported."""


def died_reason(how: str) -> str:
    """Why a case has failed during which its process ended `DEATHS` times."""
    return f"its process ended twice ({how}); is the memory too small for this case?"


class BudgetUsedError(Exception):
    """The time that the user gave is over; what is needed to continue is saved."""


def run_inline(cases: Sequence[Case], options: SweepOptions, listener: SweepListener, *, budget: float | None) -> None:
    """Computes the cases in this process.

    Args:
        cases: What to compute.
        options: How.
        listener: Who watches.
        budget: Seconds after which to stop at the next checkpoint; None: never.

    Raises:
        StoreError: The output folder cannot be written.
        Interrupted: Stopped by a signal.
        BudgetUsedError: The time is over.
    """
    over = threading.Event()

    def stop() -> None:
        over.set()
        os.kill(os.getpid(), signal.SIGTERM)

    timer = None if budget is None else threading.Timer(budget, stop)
    try:
        with interruptible():
            if timer is not None:
                timer.daemon = True
                timer.start()
            work(cases, options, listener)
            if timer is not None:
                timer.cancel()
    except Interrupted:
        if over.is_set():
            raise BudgetUsedError from None
        raise
    finally:
        if timer is not None:
            timer.cancel()


class _Messenger(SweepListener):
    """Tells the parent what happens; where the parent is gone, the worker stops."""

    def __init__(self, connection: Connection, cases: Sequence[Case]) -> None:
        self._connection = connection
        self._place = {case.identity: place for place, case in enumerate(cases)}
        self._last_printed = 0.0

    def _send(self, *message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise Interrupted(signal.SIGTERM) from None

    def claimed(self, case: Case) -> None:
        self._send("claimed", self._place[case.identity])

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        self._send("ended", self._place[case.identity], state, reason)

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        if case.identity in self._place:
            self._send("started", self._place[case.identity], batches, tuple(finished))

    def step(self, case: Case, at: StepReport) -> None:
        now = time.monotonic()
        if case.identity in self._place and now - self._last_printed >= _LOOK:
            self._last_printed = now
            plain = tuple(dict(mapping) for mapping in at.losses)
            self._send("step", self._place[case.identity], replace(at, losses=plain))

    def batch(self, case: Case, batch: int) -> None:
        if case.identity in self._place:
            self._send("batch", self._place[case.identity], batch)

    def note(self, message: str) -> None:
        self._send("note", message)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Keeps SIGINT and SIGTERM waiting while a process is started; it inherits that until it can answer them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Starting multiprocessing's own helper would let them through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_signals_through() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _worker(cases: Sequence[Case], options: SweepOptions, connection: Connection, first: int) -> None:
    """The body of a worker process."""
    with suppress(OSError, AttributeError):
        os.setsid()  # A Ctrl-C in the terminal goes to the parent, which passes it on once.
    messenger = _Messenger(connection, cases)
    try:
        with interruptible():
            _let_signals_through()
            work(cases, options, messenger, first=first)
        connection.send(("over",))
    except Interrupted:
        with suppress(OSError):
            connection.send(("interrupted",))
    except StoreError as error:
        with suppress(OSError):
            connection.send(("store", str(error)))


class _WorkerPool:
    """The worker processes and what they are at."""

    def __init__(self, cases: Sequence[Case], options: SweepOptions, devices: Sequence[str], listener: SweepListener) -> None:
        self.cases = cases
        self.options = options
        self.listener = listener
        self.stopping = False
        self.error: UserError | None = None
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, tuple[SpawnProcess, str]] = {}
        self._at: dict[Connection, int] = {}
        self._deaths: Counter[int] = Counter()
        self._false_starts = 0
        for place, device in enumerate(devices):
            self._hire(device, place * len(cases) // len(devices))

    @property
    def busy(self) -> bool:
        return bool(self._workers)

    def _hire(self, device: str, first: int) -> None:
        parent, child = self._context.Pipe(duplex=False)
        arguments = (
            self.cases,
            replace(self.options, compute=replace(self.options.compute, devices=(torch.device(device),))),
            child,
            first,
        )
        process = self._context.Process(target=_worker, args=arguments, daemon=True)
        with _signals_held_back():
            process.start()
        child.close()
        self._workers[parent] = (process, device)

    def listen(self, seconds: float) -> None:
        """Takes what workers report within some seconds."""
        for connection in cast(list[Connection], wait(list(self._workers), timeout=seconds)):
            try:
                message = connection.recv()
            except (EOFError, OSError):
                self._left(connection)
                continue
            self._take(connection, *message)

    def _take(self, connection: Connection, kind: str, *rest: Any) -> None:
        listener = self.listener
        if kind == "note":
            listener.note(*rest)
        elif kind == "store":
            self.error = StoreError(rest[0])
            self.stop()
        elif kind in {"over", "interrupted"}:
            pass
        else:
            place, *details = rest
            self._false_starts = 0
            if kind == "claimed":
                self._at[connection] = place
            elif kind == "ended":
                self._at.pop(connection, None)
            getattr(listener, kind)(self.cases[place], *details)

    def _left(self, connection: Connection) -> None:
        """A worker's process is gone; one that was killed is replaced."""
        process, device = self._workers.pop(connection)
        connection.close()
        process.join()
        place = self._at.pop(connection, None)
        if process.exitcode == 0 or self.stopping:
            return
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if place is not None:
            self._deaths[place] += 1
            case = self.cases[place]
            if self._deaths[place] >= DEATHS:
                reason = died_reason(how)
                fail(case, self.options, reason)
                self.listener.ended(case, CaseState.FAILED, reason)
            else:
                self.listener.ended(case, CaseState.BEGUN, None)
        else:
            self._false_starts += 1
            if self._false_starts >= _FALSE_STARTS:
                self.error = UserError(
                    f"{_FALSE_STARTS} worker processes in a row ended before they took up a case ({how}); "
                    "free memory, or use fewer --jobs"
                )
                self.stop()
                return
        self.listener.note(f"a worker process ended ({how}); another one takes its place")
        self._hire(device, place or 0)

    def stop(self) -> None:
        """Asks all workers to stop at their next checkpoint; asked twice, at once."""
        self.stopping = True
        for process, _ in self._workers.values():
            if process.is_alive():
                process.terminate()

    def kill(self) -> None:
        """Ends what is left."""
        for process, _ in self._workers.values():
            process.kill()


def in_processes(
    cases: Sequence[Case], options: SweepOptions, listener: SweepListener, *, devices: Sequence[str], budget: float | None
) -> None:
    """Computes the cases in local processes, one for each entry of `devices`; arguments and errors as of `run_inline`."""
    began = time.monotonic()
    pool = _WorkerPool(cases, options, devices, listener)
    stopped: Interrupted | None = None
    over = False
    try:
        with interruptible():
            while pool.busy:
                try:
                    pool.listen(_LOOK)
                    if budget is not None and not over and time.monotonic() - began > budget:
                        over = True
                        pool.stop()
                except Interrupted as stop:
                    stopped = stop
                    pool.stop()
    finally:
        pool.kill()
    if pool.error is not None:
        raise pool.error
    if stopped is not None:
        raise stopped
    if over:
        raise BudgetUsedError
