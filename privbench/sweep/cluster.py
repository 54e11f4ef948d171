"""The launcher of a sweep on many machines: tasks of a Ray cluster whose nodes share the output folder, or reach its URL.

This process decides which case runs where; Ray starts the tasks and spreads them over CPUs and GPUs. A task whose node dies is
started again elsewhere, where the store has what it had finished. The extra `ray` brings it.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from privbench.computing.interrupt import interruptible
from privbench.core import Case, StoreError, UserError
from privbench.sweep.status import CaseState, state_in
from privbench.sweep.work import SweepListener, SweepOptions, fail, one_line_of, work
from privbench.sweep.workers import DEATHS, BudgetUsedError, died_reason

__all__ = ["on_ray"]

_LOOK = 0.5
"""Seconds between looks at the clock while no task ends."""
_TASKS = 4
"""Tasks for each CPU or GPU: enough that none waits long for the last ones, and few enough that starting them is nothing."""
_ANSWER = 10.0
"""Seconds within which the head of a cluster takes a connection."""
_GRACE = 60.0
"""Seconds that tasks get to reach a checkpoint when the sweep is stopped."""


def on_ray(
    cases: Sequence[Case], options: SweepOptions, listener: SweepListener, *, address: str | None, budget: float | None
) -> None:
    """Computes the cases as tasks of a Ray cluster whose nodes share the folder or URL; arguments as of `run_inline`.

    A task is a group of cases on one CPU or GPU. One whose node dies is started again elsewhere and continues from the last
    checkpoint; a case during which its process ended twice, without its node, has failed. With a URL, nodes share nothing else:
    each has a working folder of its own, and a case whose node dies begins anew on another one.

    Args:
        cases: What to compute.
        options: How; its device says what a task asks for.
        listener: Told of cases when their task has ended.
        address: As of `ray.init`; None starts a cluster on this machine.
        budget: Seconds.
    """
    # Ray reports its use to its makers, prints advice, and serves a web page, unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError("--launcher ray needs Ray; install it with pip install 'privbench[ray]'") from None
    began = time.monotonic()
    local = {"include_dashboard": False} if address is None else {}
    with ExitStack() as stack:
        # What Ray says of its nodes on standard output is no result of ours; what it means for the sweep is noted.
        stack.enter_context(redirect_stdout(stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))))
        _require_answer(address)
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, runtime_env=_surroundings(), **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"cannot reach Ray at {address or 'this machine'}: {one_line_of(error)[:200]}") from None
        stack.callback(ray.shutdown)
        tasks = _Tasks(ray, cases, options, listener)
        stack.callback(tasks.stop)
        with interruptible():
            while tasks.pending:
                tasks.listen(_LOOK)
                if budget is not None and tasks.pending and time.monotonic() - began > budget:
                    raise BudgetUsedError


def _require_answer(address: str | None) -> None:
    """Asks whether anybody listens at `HOST:PORT`, where Ray itself would wait for minutes; of other addresses nothing.

    Raises:
        UserError: Nobody does.
    """
    host, colon, port = (address or "").rpartition(":")
    if not colon or "/" in host or not port.isdecimal() or len(port) > len("65535"):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot reach Ray at {address}: {one_line_of(error)[:200]}; is its head node up?") from None


def _surroundings() -> dict[str, Any]:
    """What tasks need to import what this process imports, where it is not installed: plug-ins, a working tree."""
    folders = [str(Path(folder).resolve()) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join([*folders, "${PYTHONPATH}"])}} if folders else {}


class _Tasks:
    """The tasks of a sweep; `pending` has those that have not ended, with their cases."""

    def __init__(self, ray: Any, cases: Sequence[Case], options: SweepOptions, listener: SweepListener) -> None:
        kind = "GPU" if options.compute.device.type == "cuda" else "CPU"
        total = int(ray.cluster_resources().get(kind, 0))
        if total < 1:
            raise UserError(f"the Ray cluster has no {kind}; start its nodes with some, or change --device")
        resources = {"num_gpus": 1} if kind == "GPU" else {"num_cpus": options.compute.threads or 1}
        self.pending: dict[Any, Sequence[Case]] = {}
        self._ray = ray
        self._options = options
        self._listener = listener
        self._known = {case.identity: case for case in cases}
        self._deaths: Counter[str] = Counter()
        # Ray itself would start a task again without end that is too large for its node.
        self._task = ray.remote(**resources, max_retries=0)(_task)
        size = max(1, len(cases) // (_TASKS * total))
        for start in range(0, len(cases), size):
            self._start(cases[start : start + size])

    def _start(self, group: Sequence[Case]) -> None:
        contents = [case.model_dump(mode="json") for case in group]
        self.pending[self._task.remote(contents, self._options, str(Path.cwd()))] = group

    def listen(self, seconds: float) -> None:
        """Takes what tasks return within some seconds.

        Raises:
            StoreError: The output folder cannot be written.
            UserError: A node cannot run a task.
        """
        ready, _ = self._ray.wait(list(self.pending), timeout=seconds)
        for reference in ready:
            group = self.pending.pop(reference)
            try:
                outcomes = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise StoreError(str(error.cause)) from None
                reason = one_line_of(error.cause if isinstance(error.cause, BaseException) else error)
                raise UserError(f"a Ray task failed ({reason}); its node needs the environment of this machine") from None
            except (self._ray.exceptions.NodeDiedError, self._ray.exceptions.LocalRayletDiedError):
                self._again(group, "its node died", whose_fault=None)
            except (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.OutOfMemoryError) as error:
                self._again(group, type(error).__name__, whose_fault=self._left(group)[:1])
            else:
                for identity, state, reason in outcomes:
                    self._listener.ended(self._known[identity], CaseState(state), reason)

    def _left(self, group: Sequence[Case]) -> list[Case]:
        """The cases of a group that have no end; a task takes them in order."""
        ends = {CaseState.DONE, CaseState.FAILED}
        return [case for case in group if state_in(self._options.store, case)[0] not in ends]

    def _again(self, group: Sequence[Case], how: str, *, whose_fault: Sequence[Case] | None) -> None:
        """Starts what is left of a task whose process is gone."""
        for case in whose_fault or ():
            self._deaths[case.identity] += 1
            if self._deaths[case.identity] >= DEATHS:
                fail(case, self._options, died_reason(how))
        left = self._left(group)
        for case in group:
            if case not in left:
                state, found = state_in(self._options.store, case)
                self._listener.ended(case, state, getattr(found, "reason", None))
        self._listener.note(f"a Ray task ended ({how}); another one takes its place")
        if left:
            self._start(left)

    def stop(self) -> None:
        """Ends the tasks that are left, at a checkpoint where they reach one soon."""
        for reference in self.pending:
            with suppress(Exception):
                self._ray.cancel(reference, force=False)
        if self.pending:
            with suppress(Exception):
                self._ray.wait(list(self.pending), num_returns=len(self.pending), timeout=_GRACE)


class _Outcomes(SweepListener):
    """Keeps what became of each case."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, str, str | None]] = {}

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        self.found[case.identity] = (case.identity, str(state), reason)


def _task(contents: Sequence[Mapping[str, Any]], options: SweepOptions, where: str) -> list[tuple[str, str, str | None]]:
    """The body of a Ray task, in the folder where the sweep was started, so that paths mean the same."""
    outcomes = _Outcomes()
    # A node that shares no disk need not have that folder: what cases are made of then has paths that mean the same everywhere.
    with suppress(OSError):
        os.chdir(where)
    with interruptible():
        work([Case.model_validate(content) for content in contents], options, outcomes)
    return list(outcomes.found.values())
