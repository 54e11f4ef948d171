"""The record of a case whose batches are all attacked and scored."""

from collections.abc import Sequence

from privbench.core import ComputeOptions, ImageResult, MemberResult, Provenance, Record
from privbench.models import victim_card
from privbench.runner.context import CaseContext
from privbench.runner.plugins import plugins_of
from privbench.runner.provenance import take_provenance
from privbench.scoring import MetricSuite, summarise
from privbench.store.checkpoints import FinishedBatch

__all__ = ["finished_record", "record_of"]


def finished_record(
    context: CaseContext, suite: MetricSuite, compute: ComputeOptions, batches: Sequence[FinishedBatch], seconds: float
) -> Record:
    """Puts a record together; the checksums of the other files are added by whoever writes it.

    Args:
        context: The case.
        suite: What it was scored by.
        compute: Where and how it was computed.
        batches: All its batches, in order.
        seconds: How long it took, earlier sessions included.
    """
    results = tuple(image for batch in batches for image in batch.images)
    flags = {flag for image in results for flag in image.flags} | context.flags
    if any(image.failure for image in results):
        flags.add("failed-images")
    provenance = take_provenance(compute, seconds, group=max(batch.group for batch in batches))
    return record_of(context, suite, results, flags=tuple(sorted(flags)), provenance=provenance)


def record_of(
    context: CaseContext,
    suite: MetricSuite,
    results: tuple[ImageResult, ...],
    *,
    flags: tuple[str, ...],
    provenance: Provenance,
    members: tuple[MemberResult, ...] = (),
) -> Record:
    """The record of a case: what follows from its images, and what is said of it.

    Args:
        context: The case.
        suite: What it was scored by.
        results: Of its images, in order.
        flags: Remarks on them.
        provenance: Where and how it was computed.
        members: The attacks of an ensemble.
    """
    case = context.case
    card = victim_card(case.victim, context.defense)
    return Record(
        case_id=case.identity,
        case=case,
        images=results,
        summary=summarise([image.scores for image in results], case.seed),
        summary_saved=summarise([image.scores_saved for image in results], case.seed),
        unavailable=dict(suite.unavailable),
        lpips_weights_sha256=suite.lpips_weights_sha256,
        victim_accuracy=card.accuracy if card else None,
        victim_accuracy_images=card.test_images if card else None,
        **context.sent_model(),
        flags=flags,
        members=members,
        plugins=plugins_of(case, suite.names),
        provenance=provenance,
    )
