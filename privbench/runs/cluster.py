"""The launcher of a sweep on many machines: tasks of a Ray cluster whose nodes share the output folder.

Ray starts the tasks, spreads them over CPUs and GPUs, and runs those of a node that dies again elsewhere; the store keeps what
they had finished. The extra `ray` brings it.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from privbench.core import Case, StoreError, UserError
from privbench.runs.interrupt import interruptible
from privbench.runs.sweep import CaseState, SweepListener, Way, one_line_of, work
from privbench.runs.workers import BudgetUsedError

__all__ = ["on_ray"]

_LOOK = 0.5
"""Seconds between looks at the clock while no task ends."""
_TASKS = 4
"""Tasks for each CPU or GPU: enough that none waits long for the last ones, and few enough that starting them is nothing."""


def on_ray(cases: Sequence[Case], way: Way, listener: SweepListener, *, address: str | None, budget: float | None) -> None:
    """Computes the cases as tasks of a Ray cluster whose nodes share the output folder; arguments and errors as of `alone`.

    A task is a group of cases on one CPU or GPU. Ray runs the tasks of a node that dies again elsewhere, where they continue
    from the last checkpoint.

    Args:
        cases: What to compute.
        way: How; its device says what a task asks for.
        listener: Told of cases when their task has ended.
        address: As of `ray.init`; None starts a cluster on this machine.
        budget: Seconds.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--launcher ray needs Ray; install it with pip install 'privbench[ray]'") from None
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot reach Ray at {address or 'this machine'}: {one_line_of(error)[:200]}") from None
    began = time.monotonic()
    kind = "GPU" if way.device.startswith("cuda") else "CPU"
    total = int(ray.cluster_resources().get(kind, 0))
    if total < 1:
        ray.shutdown()
        raise UserError(f"the Ray cluster has no {kind}; start its nodes with some, or change --device")
    resources = {"num_gpus": 1} if kind == "GPU" else {"num_cpus": way.threads}
    size = max(1, len(cases) // (_TASKS * total))
    groups = [cases[start : start + size] for start in range(0, len(cases), size)]
    known = {case.identity: case for case in cases}
    task = ray.remote(**resources, max_retries=-1)(_task)
    pending = [task.remote([case.model_dump(mode="json") for case in group], way, str(Path.cwd())) for group in groups]
    try:
        with interruptible():
            while pending:
                ready, pending = ray.wait(pending, timeout=_LOOK)
                for reference in ready:
                    for identity, state, reason in ray.get(reference):
                        listener.ended(known[identity], CaseState(state), reason)
                if budget is not None and pending and time.monotonic() - began > budget:
                    raise BudgetUsedError
    except ray.exceptions.RayTaskError as error:
        raise StoreError(one_line_of(error.cause)) from None
    finally:
        for reference in pending:
            with suppress(Exception):
                ray.cancel(reference, force=False)
        ray.shutdown()


class _Outcomes(SweepListener):
    """Keeps what became of each case."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, str, str | None]] = {}

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        self.found[case.identity] = (case.identity, str(state), reason)


def _task(contents: Sequence[Mapping[str, Any]], way: Way, where: str) -> list[tuple[str, str, str | None]]:
    """The body of a Ray task, in the folder where the sweep was started, so that paths mean the same."""
    outcomes = _Outcomes()
    os.chdir(where)
    work([Case.model_validate(content) for content in contents], way, outcomes)
    return list(outcomes.found.values())
