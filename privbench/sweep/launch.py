"""A whole study computed: where its cases stand, which are left to do, by how many processes, and how it ended."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from privbench.computing.machine import resolve_devices
from privbench.core import Case, ComputeOptions, Record, UserError
from privbench.runner.pictures import Draw
from privbench.runner.suites import Suites
from privbench.store.base import Store
from privbench.store.files import write_locked
from privbench.store.local import FolderStore
from privbench.sweep.progress import SweepProgress
from privbench.sweep.status import CaseState
from privbench.sweep.study import Study
from privbench.sweep.work import SweepListener, SweepOptions
from privbench.sweep.workers import BudgetUsedError, in_processes, run_inline

__all__ = ["Launch", "StudyOutcome", "Watch", "compute_study", "outcome_of"]

Watch = Callable[[SweepProgress, int], AbstractContextManager[SweepListener]]
"""Given where the cases stand and the number of workers: who watches for as long as the sweep lasts."""


@dataclass(frozen=True)
class Launch:
    """How a study is computed.

    Attributes:
        launcher: Processes of this machine, or tasks of a Ray cluster.
        address: Of the Ray cluster; None: one that is started on this machine.
        jobs: Local processes; None: one per CUDA device, one on a CPU.
        device: `auto`, `cpu`, `cuda` (all of them) or `cuda:INDEX`.
        threads: CPU threads of each process.
        compile: Whether the optimisation step is compiled.
        checkpoint_interval: Seconds between checkpoints.
        budget: Seconds after which the sweep stops at a checkpoint; None: when all is done.
        retry_failed: Whether failed cases are tried again.
        lpips_weights: File with the trunk of LPIPS.
        download: Whether a missing trunk may be fetched.
        log: Registered loggers that every case is reported to.
    """

    launcher: Literal["local", "ray"] = "local"
    address: str | None = None
    jobs: int | None = None
    device: str = "auto"
    threads: int = 1
    compile: Literal["auto", "on", "off"] = "auto"
    checkpoint_interval: float = 20.0
    budget: float | None = None
    retry_failed: bool = False
    lpips_weights: Path | None = None
    download: bool = True
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyOutcome:
    """How far a study is.

    Attributes:
        place: The store of its cases.
        cases: How many cases it has.
        done: How many of them are finished.
        failed: Folder of each case that cannot be computed, and the reason.
        unreadable: One line for each combination whose image cannot be read.
        over_budget: Whether the time ran out before everything was done.
    """

    place: Store
    cases: int
    done: int
    failed: dict[str, str]
    unreadable: tuple[str, ...]
    over_budget: bool = False


def outcome_of(study: Study, store: Store, *, over_budget: bool = False) -> StudyOutcome:
    """How far a study is now.

    Raises:
        UserError: The store cannot be read.
    """
    with store.open(everything=False) as local:
        progress = SweepProgress(study.cases, local)
    failed = {progress.cases[identity].folder: reason for identity, reason in progress.reasons.items()}
    done = progress.count(CaseState.DONE)
    return StudyOutcome(store, len(study.cases), done, failed, study.unreadable, over_budget)


def compute_study(study: Study, store: Store, how: Launch, draw: Draw, watch: Watch | None = None) -> StudyOutcome:
    """Computes what is not finished of a study.

    Args:
        study: The cases.
        store: Where they go.
        how: On which machines, devices and threads.
        draw: Makes the comparison picture of a case.
        watch: Who watches.

    Raises:
        UserError: A choice is not accepted.
        StoreError: The store cannot be written.
        Interrupted: Stopped by a signal; what is done is kept.
    """
    devices = _devices(how)
    store.check()
    if how.launcher == "ray" and isinstance(store, FolderStore):
        store = FolderStore(store.path.resolve())
    _write_plan(study, store)
    if how.retry_failed:
        for case in study.cases:
            store.forget_failure(case)
    with store.open(everything=False) as local:
        progress = SweepProgress(study.cases, local)
    if how.lpips_weights is not None:
        suites = Suites(how.lpips_weights)
        for found in map(store.find, study.cases):
            if isinstance(found, Record):
                suites.require_for_finished(found)
    options = SweepOptions(
        store=store,
        compute=ComputeOptions(
            devices=(torch.device(devices[0]),),
            compile=how.compile,
            threads=how.threads,
            checkpoint_interval=how.checkpoint_interval,
        ),
        lpips_weights=how.lpips_weights,
        download=how.download,
        draw=draw,
        loggers=tuple(how.log),
    )
    todo = [case for case in study.cases if progress.states[case.identity] not in {CaseState.DONE, CaseState.FAILED}]
    count = min(how.jobs or len(devices), max(len(todo), 1))
    if str(store).startswith("memory://") and (how.launcher == "ray" or count > 1):
        raise UserError(f"{store} is the memory of one process; use --jobs 1, or another --output")
    over = False
    try:
        with nullcontext(SweepListener()) if watch is None else watch(progress, count) as listener:
            _work(todo, options, listener, how, [devices[place % len(devices)] for place in range(count)])
    except BudgetUsedError:
        over = True
    return outcome_of(study, store, over_budget=over)


def _devices(how: Launch) -> list[str]:
    if how.address is not None and how.launcher != "ray":
        raise UserError("--address is of a Ray cluster; add --launcher ray")
    if how.launcher == "ray":
        return [how.device.replace("auto", "cpu")]
    return [str(one) for one in resolve_devices(how.device)]


def _write_plan(study: Study, store: Store) -> None:
    name = f"study--{study.name}--{study.identity}.json"
    if isinstance(store, FolderStore):
        write_locked(store.path, name, study.plan().encode())
    else:
        store.write({name: study.plan().encode()})


def _work(todo: list[Case], options: SweepOptions, listener: SweepListener, how: Launch, devices: list[str]) -> None:
    if how.launcher == "ray":
        from privbench.sweep.cluster import on_ray

        on_ray(todo, options, listener, address=how.address, budget=how.budget)
    elif len(devices) == 1:
        run_inline(todo, options, listener, budget=how.budget)
    else:
        in_processes(todo, options, listener, devices=devices, budget=how.budget)
