"""What records and utility reports say of one side of a comparison, and what is missing there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privbench.analysis.leaderboard import read_record
from privbench.claims.hypotheses import UTILITY_MEASURES, ResolvedSide, Side
from privbench.core import FailedCase, Interval, Metric, Record, UtilityReport
from privbench.core.flags import LOWER_BOUND
from privbench.store.base import Store
from privbench.store.layout import FAILURE, RECORD, walk_results

__all__ = ["Evidence", "MeasuredVictim", "SideScores", "measured_victims", "paired_scores"]


@dataclass(frozen=True)
class Evidence:
    """What was measured.

    Attributes:
        records: What finished cases are called, and their records.
        failures: Cases that could not be computed.
        reports: What utility reports are called, and the utility reports.
    """

    records: tuple[tuple[str, Record], ...]
    failures: tuple[FailedCase, ...]
    reports: tuple[tuple[str, UtilityReport], ...]

    @classmethod
    def of(cls, stores: Sequence[Store]) -> "Evidence":
        """Reads all records, failed cases and utility reports of some stores; of what lies there twice, the first.

        Raises:
            UserError: There is no such store, or a file cannot be read or was changed.
        """
        records: dict[str, tuple[str, Record]] = {}
        failures: dict[str, FailedCase] = {}
        reports: dict[str, tuple[str, UtilityReport]] = {}
        for store in stores:
            with store.open(everything=False) as folder:
                for path in walk_results(folder):
                    name = store / path.relative_to(folder).as_posix()
                    if path.name == RECORD:
                        record = read_record(path)
                        records.setdefault(record.case_id, (name.removesuffix(f"/{RECORD}"), record))
                    elif path.name == FAILURE:
                        failure = FailedCase.load(path)
                        failures.setdefault(failure.case_id, failure)
                    elif path.name.startswith("utility--"):
                        utility = UtilityReport.load(path)
                        reports.setdefault(utility.to_json(), (name, utility))
        return cls(tuple(records.values()), tuple(failures.values()), tuple(reports.values()))


@dataclass(frozen=True)
class SideScores:
    """What the attacks of one side got.

    Attributes:
        values: By image, the highest leakage over the attacks.
        used: What the cases are called.
        missing: One line for each attack without a record of these images.
        is_bound: Whether some attacker could not undo what the client did to its images, so that more may leak.
    """

    values: Mapping[str, float]
    used: tuple[str, ...]
    missing: tuple[str, ...]
    is_bound: bool = False


def paired_scores(
    sides: tuple[Side, Side], metric: Metric, ceiling: float | None, evidence: Evidence
) -> tuple[SideScores, SideScores]:
    """Collects the cases of both sides of a comparison.

    All attacks of a side are judged on the images of one of its cases: on both sides those that have most in common, and of
    these the largest.

    Args:
        sides: Whose.
        metric: Which score.
        ceiling: Values above count as this one; None for no such limit.
        evidence: Where to look.
    """
    one, other = ([*_image_sets(side, evidence), frozenset[str]()] for side in sides)
    images = max(
        ((mine, theirs) for mine in one for theirs in other),
        key=lambda pair: (len(pair[0] & pair[1]), len(pair[0]), len(pair[1]), sorted(pair[0]), sorted(pair[1])),
    )
    first, second = (_scores(side, chosen, metric, ceiling, evidence) for side, chosen in zip(sides, images, strict=True))
    return first, second


def _image_sets(side: Side, evidence: Evidence) -> set[frozenset[str]]:
    """The images of each of a side's cases."""
    wanted = ResolvedSide.of(side)
    return {
        frozenset(_images(record))
        for _, record in evidence.records
        if any(wanted.is_case_of(record, attack) for attack in wanted.attacks)
    }


def _scores(side: Side, images: frozenset[str], metric: Metric, ceiling: float | None, evidence: Evidence) -> SideScores:
    """What the attacks of one side got of some images."""
    wanted = ResolvedSide.of(side)
    found = {
        attack: [(path, record) for path, record in evidence.records if wanted.is_case_of(record, attack)]
        for attack in wanted.attacks
    }
    leakiest: dict[str, float] = {}
    used: list[str] = []
    missing: list[str] = []
    is_bound = False
    for attack, records in found.items():
        whole = [(path, record) for path, record in records if images <= set(_images(record))]
        scored = [(path, record) for path, record in whole if metric.name in record.summary]
        if not scored:
            missing.append(_missing(wanted, attack, metric.name, whole or records, images, evidence))
        for path, record in scored:
            used.append(path)
            is_bound = is_bound or LOWER_BOUND in record.flags
            for image in (image for image in record.images if image.image in images):
                value = image.scores[metric.name]
                value = value if ceiling is None else min(value, ceiling)
                leakier = max if metric.higher_is_leakier else min
                leakiest[image.image] = leakier(value, leakiest.get(image.image, value))
    return SideScores(leakiest, tuple(used), tuple(missing), is_bound)


def _images(record: Record) -> list[str]:
    return [image.image for image in record.images]


def _missing(
    wanted: ResolvedSide,
    attack: str,
    metric: str,
    records: Sequence[tuple[str, Record]],
    images: frozenset[str],
    evidence: Evidence,
) -> str:
    """Why an attack has no score of these images."""
    what = f"{attack} on {wanted.side.text}"
    there = max((len(images.intersection(_images(record))) for _, record in records), default=None)
    if there is not None:
        return f"{what} has no {metric}" if there == len(images) else f"{what} has only {there} of {len(images)} images"
    failed = next((failure for failure in evidence.failures if wanted.is_case_of(failure, attack)), None)
    return f"no record of {what}" if failed is None else f"{what} failed: {failed.reason}"


@dataclass(frozen=True)
class MeasuredVictim:
    """A measure of one utility report.

    Attributes:
        path: What the utility report is called.
        utility: The utility report.
        value: The measure; a bare number has no interval.
    """

    path: str
    utility: UtilityReport
    value: float | Interval

    @property
    def recipe(self) -> object:
        """What makes victims comparable; None where nobody knows."""
        return self.utility.training and self.utility.training.alike

    @property
    def seed(self) -> float | int | str | None:
        """Of the training; None where nobody knows."""
        training = self.utility.training
        return None if training is None else training.recipe.get("seed")

    @property
    def mean(self) -> float:
        """The measure without its interval."""
        return self.value.mean if isinstance(self.value, Interval) else self.value


def measured_victims(side: Side, measure: str, evidence: Evidence) -> tuple[tuple[MeasuredVictim, ...], str | None]:
    """Finds the victims of one side of which a measure was taken; where there is none, also why.

    Args:
        side: Whose.
        measure: One of `UTILITY_MEASURES`.
        evidence: Where to look.
    """
    wanted = ResolvedSide.of(side)
    reports = [(path, utility) for path, utility in evidence.reports if wanted.is_report_of(utility)]
    values = [(path, utility, UTILITY_MEASURES[measure](utility)) for path, utility in reports]
    found = tuple(MeasuredVictim(path, utility, value) for path, utility, value in values if value is not None)
    if found:
        return found, None
    return (), f"{side.text} has no {measure}" if reports else f"no utility report of {side.text}"
