"""The rule by which records and utility reports decide claims.

It follows from the intervals of paired differences, and where records are missing the claim says so instead of disappearing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from privbench.claims.benchmark_tables import SEEDS, TableComparison, table_difference
from privbench.claims.evidence import Evidence, MeasuredVictim, measured_victims, paired_scores
from privbench.claims.hypotheses import Comparison, Hypothesis, Side
from privbench.core import METRICS, Interval, Metric, UserError, UtilityReport
from privbench.scoring import paired_difference, student_interval

__all__ = ["SMALLEST", "Finding", "Judgement", "Measured", "Verdict", "judge"]

SMALLEST = 16
"""Fewer images decide nothing."""

Verdict = Literal["holds", "does not hold", "holds only for unaware attackers", "inconclusive", "not measured"]

_BOUND = "attackers did not undo what was done to the images"
_MISSING = "records are missing"


@dataclass(frozen=True)
class Measured:
    """One side as it was measured.

    Attributes:
        mean: Of the images that both sides have.
        used: Where its records or its utility report lie.
    """

    mean: float
    used: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What became of one comparison.

    Attributes:
        comparison: The comparison.
        verdict: Of this comparison alone.
        reason: In a few words why it is no more than that; None where the interval decides.
        detail: The same at length, with what is missing; empty where there is no more to say.
        difference: The higher side minus the lower one; None where nothing was measured.
        has_interval: Whether the difference has an interval.
        higher: The higher side; None where nothing was measured.
        lower: The lower side; None where nothing was measured.
    """

    comparison: Comparison | TableComparison
    verdict: Literal["holds", "does not hold", "inconclusive", "not measured"]
    reason: str | None = None
    detail: str = ""
    difference: Interval | None = None
    has_interval: bool = True
    higher: Measured | None = None
    lower: Measured | None = None


@dataclass(frozen=True)
class Judgement:
    """A claim, judged.

    Attributes:
        hypothesis: The claim.
        verdict: By rule.
        reason: In a few words why it is inconclusive or not measured; None where it is decided.
        decisive: The finding that decides, or the first one; None where the claim has no comparison.
        findings: All of them, in the order of the claim.
    """

    hypothesis: Hypothesis
    verdict: Verdict
    reason: str | None
    decisive: Finding | None
    findings: tuple[Finding, ...]


def judge(hypothesis: Hypothesis, evidence: Evidence, tables: Path = Path()) -> Judgement:
    """Compares, and rules: a claim holds where every comparison does, and does not hold where one does not.

    Where comparisons name their attacker: a claim that holds against unaware attackers and does not against those who know the
    defense holds only for unaware attackers.

    Args:
        hypothesis: The claim.
        evidence: Records and utility reports.
        tables: The folder from which comparisons of tables name their file: that of the claims.

    Raises:
        UserError: A comparison means utility reports of different weights, or a table does not have its columns.
    """
    if hypothesis.unmeasured is not None:
        return Judgement(hypothesis, "not measured", hypothesis.unmeasured, None, ())
    findings = tuple(_finding(comparison, evidence, tables) for comparison in hypothesis.comparisons)
    unaware, aware, other = (
        tuple(finding for finding in findings if finding.comparison.attacker == attacker)
        for attacker in ("unaware", "aware", None)
    )
    if unaware and aware:
        against_aware, against_unaware = _conjunction(aware), _conjunction(unaware + other)
        if against_aware.verdict == "does not hold":
            if against_unaware.verdict == "holds":
                return Judgement(hypothesis, "holds only for unaware attackers", None, against_aware, findings)
            if against_unaware.verdict != "does not hold":
                reason = f"does not hold for aware attackers; for unaware ones: {against_unaware.reason}"
                return Judgement(hypothesis, "inconclusive", reason, against_aware, findings)
    decisive = _conjunction(findings)
    partly = decisive.verdict == "not measured" and any(finding.verdict == "holds" for finding in findings)
    verdict = "inconclusive" if partly else decisive.verdict
    return Judgement(hypothesis, verdict, decisive.reason, decisive, findings)


_ORDER = ("does not hold", "inconclusive", "not measured", "holds")


def _conjunction(findings: Sequence[Finding]) -> Finding:
    """The finding that decides whether all of them hold."""
    return min(findings, key=lambda finding: _ORDER.index(finding.verdict))


def _finding(comparison: Comparison | TableComparison, evidence: Evidence, tables: Path) -> Finding:
    if isinstance(comparison, TableComparison):
        return _of_table(comparison, tables)
    measure = comparison.measure
    return _of_records(comparison, evidence) if measure is None else _of_reports(comparison, measure, evidence)


def _of_table(comparison: TableComparison, folder: Path) -> Finding:
    found = table_difference(comparison, folder)
    if found is None:
        return Finding(comparison, "not measured", "rows are missing", f"{comparison.table}: {comparison.command}")
    difference, higher, lower = found
    verdict, reason = _verdict(difference, comparison.margin, comparison.smallest, comparison.over)
    return Finding(comparison, verdict, reason, "", difference, True, Measured(higher, ()), Measured(lower, ()))


def _of_records(comparison: Comparison, evidence: Evidence) -> Finding:
    metric: Metric = METRICS.get(comparison.metric)
    higher, lower = paired_scores((comparison.higher, comparison.lower), metric, comparison.ceiling, evidence)
    missing = (*higher.missing, *lower.missing)
    images = [image for image in higher.values if image in lower.values]
    detail = "; ".join(dict.fromkeys(missing))
    if not images:
        return Finding(comparison, "not measured", _MISSING if missing else "the two sides have no image in common", detail)
    above, below = ([side.values[image] for image in images] for side in (higher, lower))
    difference = paired_difference(below, above, seed=0).interval
    verdict, reason = _verdict(difference, comparison.margin)
    # Attacks that are missing, and those that do not undo a defense, can only show that more leaks, up to all of it.
    most = [metric.best if comparison.ceiling is None else min(metric.best, comparison.ceiling)] * len(images)
    open_above, open_below = (bool(side.missing) or side.is_bound for side in (higher, lower))
    ends = [(most, below)] * open_above + [(above, most)] * open_below
    at_most = [_verdict(paired_difference(second, first, seed=0).interval, comparison.margin)[0] for first, second in ends]
    if any(end != verdict for end in at_most) and verdict != "inconclusive":
        verdict, reason = "inconclusive", f"{_MISSING if missing else _BOUND}; so far it {verdict}"
    sides = [Measured(fmean(values), side.used) for values, side in ((above, higher), (below, lower))]
    return Finding(comparison, verdict, reason, detail, difference, True, *sides)


def _of_reports(comparison: Comparison, measure: str, evidence: Evidence) -> Finding:
    sides = (comparison.higher, comparison.lower)
    (higher, no_higher), (lower, no_lower) = (measured_victims(side, measure, evidence) for side in sides)
    missing = [reason for reason in (no_higher, no_lower) if reason is not None]
    if missing:
        return Finding(comparison, "not measured", "utility reports are missing", "; ".join(dict.fromkeys(missing)))
    # What a defense costs shows only beside a victim that was trained for as long on as many images.
    pairs = [(one, other) for one in higher for other in lower if one.recipe == other.recipe]
    if not pairs:
        recipes = [f"{side.text} {_recipes(reports)}" for side, reports in zip(sides, (higher, lower), strict=True)]
        return Finding(comparison, "not measured", "the victims were trained by different recipes", "; ".join(recipes))
    seeds = {one.seed: [pair for pair in pairs if pair[0].seed == pair[1].seed == one.seed] for one, _ in pairs}
    runs = {seed: found for seed, found in seeds.items() if seed is not None and found}
    if len(runs) > 1:
        return _of_runs(comparison, sides, list(runs.values()))
    pairs = next(iter(runs.values()), pairs)
    for place, side in enumerate(sides):
        _require_one_victim([pair[place].utility for pair in pairs], side, comparison)
    one, other = max(pairs, key=lambda pair: min(measured.utility.images for measured in pair))
    n = min(one.utility.images, other.utility.images)
    both = [Measured(measured.mean, (measured.path,)) for measured in (one, other)]
    if isinstance(one.value, Interval) and isinstance(other.value, Interval):
        difference = _difference(one.value, other.value, n)
        verdict, reason = _verdict(difference, comparison.margin)
        return Finding(comparison, verdict, reason, "", difference, True, *both)
    difference = _difference(_interval(one, n), _interval(other, n), n)
    verdict, reason = _verdict(difference, comparison.margin)
    over_draws = difference.low < difference.high
    if over_draws and verdict == "inconclusive":
        reason = "the interval over draws contains the margin"
    if not comparison.by_sign:
        verdict, reason = "inconclusive", "the measure has no interval"
    elif comparison.uninformed is not None and min(one.mean, other.mean) >= comparison.uninformed:
        verdict, reason = "inconclusive", f"neither is below {comparison.uninformed:g}, what a guess that knows nothing scores"
    return Finding(comparison, verdict, reason, "", difference, over_draws, *both)


def _of_runs(
    comparison: Comparison, sides: tuple[Side, Side], runs: Sequence[Sequence[tuple[MeasuredVictim, MeasuredVictim]]]
) -> Finding:
    """Victims by one recipe and several seeds: the difference seed by seed."""
    for pairs in runs:
        for place, side in enumerate(sides):
            _require_one_victim([pair[place].utility for pair in pairs], side, comparison)
    chosen = [max(pairs, key=lambda pair: min(measured.utility.images for measured in pair)) for pairs in runs]
    difference = student_interval([one.mean - other.mean for one, other in chosen])
    verdict, reason = _verdict(difference, comparison.margin, SEEDS, "seeds")
    both = [Measured(fmean(one.mean for one in side), tuple(one.path for one in side)) for side in zip(*chosen, strict=True)]
    return Finding(comparison, verdict, reason, "", difference, True, *both)


def _recipes(reports: Sequence[MeasuredVictim]) -> str:
    known = [measured.utility.training for measured in reports if measured.utility.training is not None]
    said = {f"{training.epochs} epochs of {training.recipe.get('images', 'all')} images" for training in known}
    return f"by {', '.join([*sorted(said), *(['an unknown one'] if len(known) < len(reports) else [])])}"


def _require_one_victim(reports: Sequence[UtilityReport], side: Side, comparison: Comparison) -> None:
    weights = {utility.victim.weights_sha256: Path(utility.victim.weights).name for utility in reports}
    if len(weights) > 1:
        raise UserError(
            f"{comparison.name}: there are reports of several weights of {side.text} ({', '.join(sorted(weights.values()))}); "
            "name one in `weights`"
        )


def _interval(measured: MeasuredVictim, n: int) -> Interval:
    """Of the measure; a bare number is one that has no width, as a victim that draws nothing has over draws."""
    mean = measured.mean
    return measured.value if isinstance(measured.value, Interval) else Interval(mean=mean, low=mean, high=mean, n=n)


def _difference(first: Interval, second: Interval, n: int) -> Interval:
    """The difference of two means with an interval from theirs, as of independent samples (Zou and Donner, 2008).

    Reports are of the same images, whose outcomes the files do not hold: the interval is wider than a paired one would be.
    """
    mean = first.mean - second.mean
    below = math.hypot(first.mean - first.low, second.high - second.mean)
    above = math.hypot(first.high - first.mean, second.mean - second.low)
    return Interval(mean=mean, low=mean - below, high=mean + above, n=n)


def _verdict(
    difference: Interval, margin: float, smallest: int = SMALLEST, over: str = "images"
) -> tuple[Literal["holds", "does not hold", "inconclusive"], str | None]:
    if difference.n < smallest:
        return "inconclusive", f"only {difference.n} of at least {smallest} {over}"
    if difference.low > margin:
        return "holds", None
    if difference.high < margin:
        return "does not hold", None
    return "inconclusive", f"the interval of {difference.n} {over} contains the margin"
