"""An ensemble's case: its attacks one after another on what is left, and the highest leakage over them as one record.

The attacks are ordinary cases of fewer images, kept below the ensemble's folder, so that an interrupted ensemble continues.
They are parts of its row and no rows of their own: the images that they attacked were chosen by what came before.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from privbench.computing.interrupt import interruptible
from privbench.core import (
    Case,
    ComputeOptions,
    ImageResult,
    Record,
    ensemble_members,
    is_ensemble,
)
from privbench.runner.context import CaseContext, load_case
from privbench.runner.ensemble_draw import EnsembleDraw, over_draws
from privbench.runner.execute import run_case
from privbench.runner.listener import Listener
from privbench.runner.pictures import Draw, shown_results
from privbench.runner.provenance import take_provenance
from privbench.runner.recording import record_of
from privbench.runner.suites import Suites
from privbench.scoring import MetricSuite
from privbench.store.case_folder import CaseFolder
from privbench.store.files import check_output
from privbench.store.layout import CASE, COMPARISON

__all__ = ["run"]


def run(
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
    """Computes any case, an attack's or an ensemble's; arguments as of `run_case`, which takes the attacks'.

    Raises:
        UserError: As `run_case`, or no attack of the ensemble applies.
        AttackError: As `run_case`.
        Interrupted: Stopped by a signal; what is needed to continue is saved.
    """
    listener, suites, compute = listener or Listener(), suites or Suites(), compute or ComputeOptions()
    if not is_ensemble(case):
        return run_case(
            case,
            output=output,
            compute=compute,
            force=force,
            listener=listener,
            suites=suites,
            draw=draw,
            context=context,
        )
    check_output(output)
    folder = CaseFolder(output, case)
    if not force and (record := folder.record()) is not None:
        listener.reused(record)
        return record
    started = time.perf_counter()
    with interruptible():
        context = context or load_case(case, compute.device)
        context.require()
        suite = suites.suite(context)
        with folder.locked():
            if force or folder.has_unusable_record():
                folder.clear()
            folder.write(CASE, case.to_yaml().encode())
            ensemble, _ = ensemble_members(case)

            def run_member(member: CaseContext, below: Path) -> Record:
                return run_case(member.case, output=below, compute=compute, listener=listener, suites=suites, context=member)

            seeds = range(case.seed, case.seed + ensemble.draws)
            contexts = [context.of(case.model_copy(update={"seed": seed})) for seed in seeds]
            draws = [EnsembleDraw(one, suite, folder, run_member) for one in contexts]
            for one in draws:
                one.run(ensemble.recovered)
            results = over_draws([one.results() for one in draws])
            if draw is not None:
                folder.write(COMPARISON, draw(shown_results(context, results, folder.path)))
            record = _record(context, suite, draws, results, time.perf_counter() - started, compute)
            record = folder.finish(record)
            listener.finished(record)
            return record


def _record(
    context: CaseContext,
    suite: MetricSuite,
    draws: Sequence[EnsembleDraw],
    results: tuple[ImageResult, ...],
    seconds: float,
    compute: ComputeOptions,
) -> Record:
    attacked = sum(member.seconds for draw in draws for member in draw.members)
    # Members that were finished before an interruption count with the time that they took then.
    provenance = take_provenance(compute, max(seconds, attacked), group=compute.group or 1)
    members = tuple(member for draw in draws for member in draw.members)
    flags = _flags(context, draws, results)
    return record_of(context, suite, results, flags=flags, provenance=provenance, members=members)


def _flags(context: CaseContext, draws: Sequence[EnsembleDraw], results: Sequence[ImageResult]) -> tuple[str, ...]:
    case = context.case
    flags = {flag for draw in draws for flag in draw.flags} | {flag for image in results for flag in image.flags}
    flags |= context.flags
    if any(image.failure for image in results):
        flags.add("failed-images")
    if not case.threat_model.knows_defense and context.defense.is_simulated():
        flags.add("only-unaware-attackers")
    if len(draws) == 1 and context.is_random():
        flags.add("randomised-defense-once")
    if any(not gradient.any() for gradient in context.observe(0)[0].gradients.values()):
        flags.add("zero-gradient")
    return tuple(sorted(flags))
