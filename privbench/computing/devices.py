"""Attacks on several devices at once: a thread for each, which spends its time waiting for its device."""

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch

from privbench.computing.interrupt import Interrupted, Interruption
from privbench.core import ComputeOptions
from privbench.inversion.runner import matmul_precision

__all__ = ["run_on_devices"]

_GRACE = 5.0
"""Seconds that a thread gets to end itself; Python cannot end it."""

Result = TypeVar("Result")


def run_on_devices(
    jobs: Sequence[Callable[[], Result]],
    devices: Sequence[torch.device],
    *,
    compute: ComputeOptions,
    interruption: Interruption,
) -> tuple[list[Result | None], BaseException | None]:
    """Runs each job on its device, all at the same time.

    Args:
        jobs: What to run.
        devices: Where, one for each job; it is the thread's current CUDA device while its job runs.
        compute: How the jobs compute; the precision is the process's, so it is set once for all.
        interruption: Told when a job fails, so that the others stop at their next checkpoint.

    Returns:
        What the jobs returned, None where one did not end well, and then also why: the first error that is no mere
        consequence of another.
    """
    results: list[Result | None] = [None] * len(jobs)
    errors: list[BaseException] = []
    ended = [threading.Event() for _ in jobs]

    def work(place: int) -> None:
        try:
            with torch.cuda.device(devices[place]) if devices[place].type == "cuda" else nullcontext():
                results[place] = jobs[place]()
        except BaseException as error:
            errors.append(error)
            interruption.stop()
        finally:
            ended[place].set()

    if len(jobs) == 1:
        work(0)
    else:
        # What several threads set and put back in turn would not be left as found: the outermost block does that for all.
        with torch.random.fork_rng(devices=[]), matmul_precision(compute, devices[0]):
            threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(jobs))]
            _wait(threads, ended, interruption)
    return results, next((error for error in errors if not isinstance(error, Interrupted)), next(iter(errors), None))


def _wait(threads: Sequence[threading.Thread], ended: Sequence[threading.Event], interruption: Interruption) -> None:
    """Starts threads and waits for them; by events, because a `join` that a signal breaks off takes its thread for dead."""
    try:
        for thread in threads:
            thread.start()
        for event in ended:
            event.wait()
    except BaseException:
        interruption.stop_at_once(interruption.requested or 0)
        for thread, event in zip(threads, ended, strict=True):
            if thread.ident is not None:
                event.wait(_GRACE)
        raise
