"""One case from private images to a record: taken from the output folder where it is finished, computed where it is not."""

import time
from pathlib import Path

import torch

from privbench.computing.interrupt import interruptible
from privbench.core import Case, ComputeOptions, Record
from privbench.runner.case_runner import CaseRunner
from privbench.runner.context import CaseContext, load_case
from privbench.runner.listener import Listener
from privbench.runner.pictures import Draw
from privbench.runner.suites import Suites
from privbench.store.case_folder import CaseFolder
from privbench.store.files import check_output

__all__ = ["run_case"]


def run_case(
    case: Case,
    *,
    output: Path,
    compute: ComputeOptions | None = None,
    force: bool = False,
    listener: Listener | None = None,
    suites: Suites | None = None,
    draw: Draw | None = None,
    context: CaseContext | None = None,
) -> Record:
    """Computes a case, or takes it from the output folder where it is finished, or continues it where it was interrupted.

    Args:
        case: What to run.
        output: Folder of all cases.
        compute: Where and how; the number of groups is set here.
        force: Compute from the beginning what is finished or begun.
        listener: Who watches.
        suites: What to score by; None: everything that can be had.
        draw: Makes the comparison picture; None for none.
        context: What the case names, where somebody has loaded it.

    Returns:
        The record, as it lies in the case's folder.

    Raises:
        UserError: Something does not fit, or the output folder cannot be written.
        AttackError: The attack broke; there is no record.
        Interrupted: Stopped by a signal; what is needed to continue is saved.
    """
    listener, compute, suites = listener or Listener(), compute or ComputeOptions(), suites or Suites()
    check_output(output)
    folder = CaseFolder(output, case)
    if not force and (record := folder.record()) is not None:
        suites.require_for_finished(record)
        listener.reused(record)
        return record
    started = time.perf_counter()
    with interruptible() as interruption:
        context = context or load_case(case, compute.device)
        context.require()
        suite = suites.suite(context)
        for device in compute.devices:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
        with folder.locked():
            # Another process may have finished the case while this one was preparing.
            if not force and (record := folder.record()) is not None:
                suites.require_for_finished(record)
                listener.reused(record)
                return record
            unusable = folder.has_unusable_record()
            if unusable:
                listener.note(f"the record in {folder.path} is damaged or of another version; the case is computed again")
            if force or unusable:
                folder.clear()
            return CaseRunner(context, suite, folder, listener, compute, interruption).complete(draw, started)
