"""Claims of the field against our records: what was measured of each, and a verdict by rule.

A claim is a text with its source and comparisons; a comparison says that one side's score exceeds the other's by more than a
margin. Sides are finished cases, paired image by image, or prices of victims. Nobody writes a verdict: it follows from the
intervals, and where records are missing the claim says so instead of disappearing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from privbench.core import (
    ATTACKS,
    METRICS,
    Adversary,
    Attack,
    ComponentSpec,
    FailedCase,
    Interval,
    Metric,
    Price,
    Record,
    UserError,
    parse_spec,
    resolve_defense,
    unknown_name,
)
from privbench.core.component import one_line
from privbench.core.stored import yaml_fields
from privbench.runs.leaderboard import read_record
from privbench.runs.store import FAILURE, RECORD, walk_results
from privbench.scoring import paired_difference

__all__ = [
    "SMALLEST",
    "Claim",
    "ClaimsFile",
    "Comparison",
    "Evidence",
    "Finding",
    "Judgement",
    "Measured",
    "Side",
    "Verdict",
    "judge",
    "read_claims",
]

SMALLEST = 16
"""Fewer images decide nothing."""

Verdict = Literal["holds", "does not hold", "holds only for unaware attackers", "undecided", "not measured"]

_MISSING = "records are missing"
_PRICE = "price."
_PRICES: Mapping[str, Callable[[Price], float | Interval | None]] = {
    "accuracy": lambda price: price.accuracy,
    "defended_accuracy": lambda price: price.defended_accuracy,
    "jigsaw_accuracy": lambda price: price.jigsaw_accuracy,
    "consistency": lambda price: price.consistency,
    "difference_norm": lambda price: price.difference_norm,
    "fgsm_accuracy": lambda price: price.fgsm_accuracy,
    "pgd_accuracy": lambda price: price.pgd_accuracy,
    "calibration_error": lambda price: price.calibration_error,
    "position_error": lambda price: price.position_error,
    "mean_corrupted_accuracy": lambda price: price.mean_corrupted_accuracy,
}
"""Measure to what it is in a price; a bare number has no interval."""


# Definitions


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def _several(value: Any) -> Any:
    """One value is a list of one."""
    return [value] if isinstance(value, str) else value


class Side(_Part):
    """Which cases, or which price: what is not said is the default."""

    defense: str = "none"
    """As on the command line; parameters that are left out have their defaults."""
    attack: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    """As on the command line, of the attack's first preset; of several the worst case of each image counts. Empty for a
    price."""
    adversary: Annotated[tuple[Adversary, ...], BeforeValidator(_several)] = ()
    """Empty for any; of several the worst case of each image counts."""
    labels: Literal["recovered", "known"] = "recovered"
    """What the attacker knows of the labels."""
    model_mode: Literal["eval", "train"] = "eval"
    """The mode of the client's model."""
    batch_size: int = Field(default=1, gt=0)
    """Images per update."""
    model: str = "vit_mini_patch4_32"
    """The victim."""
    weights: str = "embedded"
    """Its weights: `embedded`, `random`, `pretrained`, the name of a file, or, for a price, `any`."""
    data: str = "cifar10"
    """Name of the data set, without its folder."""
    seed: int = 0
    """Seed of the cases."""

    @property
    def text(self) -> str:
        """What differs from the defaults, for a table."""
        written = {name: getattr(self, name) for name in self.model_fields_set - {"defense", "attack", "adversary"}}
        rest = [f"{name} {value}" for name, value in sorted(written.items())]
        return ", ".join([self.defense, *self.adversary, *rest])


class Comparison(_Part):
    """The claim that a measure of one side exceeds that of the other by more than a margin."""

    name: str
    """What is compared, in a few words."""
    metric: str
    """A metric of the records, such as `psnr`, or `price.MEASURE`, such as `price.accuracy`."""
    higher: Side
    """The side whose values the claim says to be higher."""
    lower: Side
    """The other side."""
    margin: float = 0.0
    """By how much, in units of the metric; below 0: by how much it may be lower at most."""
    ceiling: float | None = None
    """Values above count as this one: beyond it nothing more leaks."""
    attacker: Literal["unaware", "aware"] | None = None
    """Whose attack it is, where a claim is tested against attackers who know the defense and such who do not."""
    by_sign: bool = False
    """Whether two numbers without intervals decide."""

    @property
    def measure(self) -> str | None:
        """Of a price; None where records are compared."""
        return self.metric.removeprefix(_PRICE) if self.metric.startswith(_PRICE) else None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        sides = (self.higher, self.lower)
        if self.measure is not None:
            if self.measure not in _PRICES:
                raise ValueError(str(unknown_name("measure of a price", self.measure, _PRICES)))
            if any(side.attack or side.adversary for side in sides) or self.attacker or self.ceiling is not None:
                raise ValueError(
                    f"{self.metric} is of prices, which have no attack, adversary, attacker or ceiling; leave them out"
                )
            return self
        if self.metric not in METRICS.names():
            raise ValueError(str(unknown_name("metric", self.metric, [*METRICS.names(), *(_PRICE + name for name in _PRICES)])))
        if not all(side.attack for side in sides):
            raise ValueError(f"{self.metric} is of attacks; name the attack of both sides")
        if any(side.weights == "any" for side in sides):
            raise ValueError(f"{self.metric} is of attacks on one victim; name its weights")
        if self.by_sign:
            raise ValueError(f"{self.metric} has an interval over images; by_sign is for prices")
        informed = {"aware", "oracle"} if self.attacker == "aware" else {self.attacker}
        if self.attacker and not any(side.adversary and set(side.adversary) <= informed for side in sides):
            raise ValueError(f"the attacker is {self.attacker} and neither side has such an adversary; name it there")
        return self


class Claim(_Part):
    """One row of the table."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """For links."""
    text: str
    """The claim in our words."""
    source: str
    """Who claims it."""
    limits: str
    """At which scale it is tested here, and what that cannot settle."""
    comparisons: tuple[Comparison, ...] = ()
    """All of them must hold."""
    unmeasured: str | None = None
    """Why there is no comparison."""

    @model_validator(mode="after")
    def _tested_or_explained(self) -> Self:
        if bool(self.comparisons) == (self.unmeasured is not None):
            raise ValueError(f"claim {self.id} needs comparisons, or else the reason in `unmeasured`; give one of the two")
        names = [comparison.name for comparison in self.comparisons]
        if len(set(names)) < len(names):
            raise ValueError(f"claim {self.id} has two comparisons of one name; give each its own")
        return self


class ClaimsFile(_Part):
    """The fields of a file of claims."""

    commands: tuple[str, ...] = ()
    """What computes all records that the claims ask for."""
    claims: tuple[Claim, ...] = Field(min_length=1)
    """In the order of the table."""

    @model_validator(mode="after")
    def _different(self) -> Self:
        ids = [claim.id for claim in self.claims]
        twice = next((one for one in ids if ids.count(one) > 1), None)
        if twice is not None:
            raise ValueError(f"two claims have the id {twice}; give each its own")
        return self


def read_claims(path: Path) -> ClaimsFile:
    """Reads a file of claims and resolves every attack and defense in it.

    Raises:
        UserError: The file cannot be read, a field is wrong, or an attack or defense is not known; the line names it.
    """
    content = yaml_fields(path, "claims", "holds no claims", ClaimsFile.model_fields)
    try:
        file = ClaimsFile.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)[:600]}") from None
    for claim in file.claims:
        for comparison in claim.comparisons:
            for side in (comparison.higher, comparison.lower):
                try:
                    _Wanted.of(side)
                except UserError as error:
                    raise UserError(f"{path}, claim {claim.id}, {comparison.name}: {error}") from None
    return file


# Evidence


@dataclass(frozen=True)
class Evidence:
    """What was measured.

    Attributes:
        records: Finished cases and where each lies.
        failures: Cases that could not be computed.
        prices: Prices and where each lies.
    """

    records: tuple[tuple[Path, Record], ...]
    failures: tuple[FailedCase, ...]
    prices: tuple[tuple[Path, Price], ...]

    @classmethod
    def below(cls, folders: Sequence[Path]) -> "Evidence":
        """Reads all records, failed cases and prices below folders; of what lies there twice, the first.

        Raises:
            UserError: There is no such folder, or a file cannot be read or was changed.
        """
        records: dict[str, tuple[Path, Record]] = {}
        failures: dict[str, FailedCase] = {}
        prices: dict[str, tuple[Path, Price]] = {}
        for path in (path for folder in folders for path in walk_results(folder)):
            if path.name == RECORD:
                record = read_record(path)
                records.setdefault(record.case_id, (path, record))
            elif path.name == FAILURE:
                failure = FailedCase.load(path)
                failures.setdefault(failure.case_id, failure)
            elif path.name.startswith("price--"):
                price = Price.load(path)
                prices.setdefault(price.to_json(), (path, price))
        return cls(tuple(records.values()), tuple(failures.values()), tuple(prices.values()))


@dataclass(frozen=True)
class _Wanted:
    """A side with its names resolved."""

    side: Side
    defense: tuple[ComponentSpec, ...]
    attacks: Mapping[str, ComponentSpec]

    @classmethod
    def of(cls, side: Side) -> "_Wanted":
        attacks = {}
        for text in side.attack:
            spec = parse_spec(text)
            component: type[Attack] = ATTACKS.get(spec.name)
            attacks[text] = ComponentSpec(name=spec.name, parameters=component.from_preset(None, spec.parameters).parameters())
        return cls(side, resolve_defense(side.defense), attacks)

    def _is_victim(self, model: str, weights: str) -> bool:
        return model == self.side.model and self.side.weights in {"any", Path(weights).name}

    def is_case_of(self, record: Record | FailedCase, attack: str) -> bool:
        """Whether a case is one of this side's with one of its attacks."""
        side, case, threat = self.side, record.case, record.case.threat_model
        return (
            case.attack == self.attacks[attack]
            and case.defense == self.defense
            and (not side.adversary or threat.adversary in side.adversary)
            and (threat.labels, threat.model_mode) == (side.labels, side.model_mode)
            and (case.batch_size, case.seed) == (side.batch_size, side.seed)
            and self._is_victim(case.victim.model.name, case.victim.weights)
            and (Path(case.data.source).name, case.data.split) == (side.data, "test")
        )

    def is_price_of(self, price: Price) -> bool:
        """Whether a price is this side's."""
        return (
            price.defense == self.defense
            and self._is_victim(price.victim.model.name, price.victim.weights)
            and (Path(price.dataset).name, price.seed) == (self.side.data, self.side.seed)
        )


@dataclass(frozen=True)
class Measured:
    """One side as it was measured.

    Attributes:
        mean: Of the images that both sides have.
        used: Where its records or its price lie.
    """

    mean: float
    used: tuple[Path, ...]


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

    comparison: Comparison
    verdict: Literal["holds", "does not hold", "undecided", "not measured"]
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
        claim: The claim.
        verdict: By rule.
        reason: In a few words why it is undecided or not measured; None where it is decided.
        decisive: The finding that decides, or the first one; None where the claim has no comparison.
        findings: All of them, in the order of the claim.
    """

    claim: Claim
    verdict: Verdict
    reason: str | None
    decisive: Finding | None
    findings: tuple[Finding, ...]


def judge(claim: Claim, evidence: Evidence) -> Judgement:
    """Compares, and rules: a claim holds where every comparison does, and does not hold where one does not.

    Where comparisons name their attacker: a claim that holds against unaware attackers and does not against those who know the
    defense holds only for unaware attackers.

    Raises:
        UserError: A comparison means prices of different weights.
    """
    if claim.unmeasured is not None:
        return Judgement(claim, "not measured", claim.unmeasured, None, ())
    findings = tuple(_finding(comparison, evidence) for comparison in claim.comparisons)
    unaware, aware, other = (
        tuple(finding for finding in findings if finding.comparison.attacker == attacker)
        for attacker in ("unaware", "aware", None)
    )
    if unaware and aware:
        against_aware, against_unaware = _conjunction(aware), _conjunction(unaware + other)
        if against_aware.verdict == "does not hold":
            if against_unaware.verdict == "holds":
                return Judgement(claim, "holds only for unaware attackers", None, against_aware, findings)
            if against_unaware.verdict != "does not hold":
                reason = f"does not hold for aware attackers; for unaware ones: {against_unaware.reason}"
                return Judgement(claim, "undecided", reason, against_aware, findings)
    decisive = _conjunction(findings)
    partly = decisive.verdict == "not measured" and any(finding.verdict == "holds" for finding in findings)
    verdict = "undecided" if partly else decisive.verdict
    return Judgement(claim, verdict, decisive.reason, decisive, findings)


_ORDER = ("does not hold", "undecided", "not measured", "holds")


def _conjunction(findings: Sequence[Finding]) -> Finding:
    """The finding that decides whether all of them hold."""
    return min(findings, key=lambda finding: _ORDER.index(finding.verdict))


def _finding(comparison: Comparison, evidence: Evidence) -> Finding:
    return _of_prices(comparison, evidence) if comparison.measure else _of_records(comparison, evidence)


# Records


@dataclass(frozen=True)
class _Scores:
    """Values of one side by image, the worst case over its attacks, and one line for each attack without a record."""

    values: Mapping[str, float]
    used: tuple[Path, ...]
    missing: tuple[str, ...]


def _of_records(comparison: Comparison, evidence: Evidence) -> Finding:
    metric: Metric = METRICS.get(comparison.metric)
    higher, lower = (_scores(side, comparison, metric, evidence) for side in (comparison.higher, comparison.lower))
    missing = (*higher.missing, *lower.missing)
    images = [image for image in higher.values if image in lower.values]
    detail = "; ".join(dict.fromkeys(missing))
    if not images:
        return Finding(comparison, "not measured", _MISSING if missing else "the two sides have no image in common", detail)
    above, below = ([side.values[image] for image in images] for side in (higher, lower))
    difference = paired_difference(below, above, seed=0).interval
    verdict, reason = _verdict(difference, comparison.margin)
    # Attacks that are missing can only show that more leaks, up to all of it.
    most = [metric.best if comparison.ceiling is None else min(metric.best, comparison.ceiling)] * len(images)
    ends = [(most, below)] * bool(higher.missing) + [(above, most)] * bool(lower.missing)
    at_most = [_verdict(paired_difference(second, first, seed=0).interval, comparison.margin)[0] for first, second in ends]
    if any(end != verdict for end in at_most) and verdict != "undecided":
        verdict, reason = "undecided", f"{_MISSING}; so far it {verdict}"
    sides = [Measured(sum(values) / len(values), side.used) for values, side in ((above, higher), (below, lower))]
    return Finding(comparison, verdict, reason, detail, difference, True, *sides)


def _scores(side: Side, comparison: Comparison, metric: Metric, evidence: Evidence) -> _Scores:
    wanted = _Wanted.of(side)
    found = {
        attack: [(path, record) for path, record in evidence.records if wanted.is_case_of(record, attack)]
        for attack in wanted.attacks
    }
    # All attacks are judged on the same images, those of the largest case.
    cases = (frozenset(_images(record)) for records in found.values() for _, record in records)
    images = max(cases, key=len, default=frozenset())
    worst: dict[str, float] = {}
    used: list[Path] = []
    missing: list[str] = []
    for attack, records in found.items():
        whole = [(path, record) for path, record in records if images <= set(_images(record))]
        scored = [(path, record) for path, record in whole if metric.name in record.summary]
        if not scored:
            missing.append(_missing(wanted, attack, metric.name, whole or records, images, evidence))
        for path, record in scored:
            used.append(path)
            for image in (image for image in record.images if image.image in images):
                value = image.scores[metric.name]
                value = value if comparison.ceiling is None else min(value, comparison.ceiling)
                leakier = max if metric.higher_is_leakier else min
                worst[image.image] = leakier(value, worst.get(image.image, value))
    return _Scores(worst, tuple(used), tuple(missing))


def _images(record: Record) -> list[str]:
    return [image.image for image in record.images]


def _missing(
    wanted: _Wanted,
    attack: str,
    metric: str,
    records: Sequence[tuple[Path, Record]],
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


# Prices


@dataclass(frozen=True)
class _Priced:
    """The measure of one price, which lies at a path."""

    path: Path
    price: Price
    value: float | Interval

    @property
    def recipe(self) -> object:
        """What makes victims comparable; None where nobody knows."""
        return self.price.training and self.price.training.alike

    @property
    def mean(self) -> float:
        return self.value.mean if isinstance(self.value, Interval) else self.value


def _of_prices(comparison: Comparison, evidence: Evidence) -> Finding:
    sides = (comparison.higher, comparison.lower)
    found, missing = [], []
    for side in sides:
        wanted = _Wanted.of(side)
        prices = [(path, price) for path, price in evidence.prices if wanted.is_price_of(price)]
        values = [(path, price, _PRICES[comparison.measure or ""](price)) for path, price in prices]
        found.append([_Priced(path, price, value) for path, price, value in values if value is not None])
        if not found[-1]:
            missing.append(f"{side.text} has no {comparison.measure}" if prices else f"no price of {side.text}")
    if missing:
        return Finding(comparison, "not measured", "prices are missing", "; ".join(dict.fromkeys(missing)))
    # What a defense costs shows only beside a victim that was trained for as long on as many images.
    pairs = [(one, other) for one in found[0] for other in found[1] if one.recipe == other.recipe]
    if not pairs:
        recipes = [f"{side.text} {_recipes(prices)}" for side, prices in zip(sides, found, strict=True)]
        return Finding(comparison, "not measured", "the victims were trained by different recipes", "; ".join(recipes))
    for place, side in enumerate(sides):
        _require_one_victim([pair[place].price for pair in pairs], side, comparison)
    one, other = max(pairs, key=lambda pair: min(priced.price.images for priced in pair))
    n = min(one.price.images, other.price.images)
    both = [Measured(priced.mean, (priced.path,)) for priced in (one, other)]
    if isinstance(one.value, Interval) and isinstance(other.value, Interval):
        difference = _difference(one.value, other.value, n)
        verdict, reason = _verdict(difference, comparison.margin)
        return Finding(comparison, verdict, reason, "", difference, True, *both)
    gap = one.mean - other.mean
    difference = Interval(mean=gap, low=gap, high=gap, n=n)
    verdict, reason = _verdict(difference, comparison.margin)
    if not comparison.by_sign:
        verdict, reason = "undecided", "the measure has no interval"
    return Finding(comparison, verdict, reason, "", difference, False, *both)


def _recipes(prices: Sequence[_Priced]) -> str:
    known = [priced.price.training for priced in prices if priced.price.training is not None]
    said = {f"{training.epochs} epochs of {training.recipe.get('images', 'all')} images" for training in known}
    return f"by {', '.join([*sorted(said), *(['an unknown one'] if len(known) < len(prices) else [])])}"


def _require_one_victim(prices: Sequence[Price], side: Side, comparison: Comparison) -> None:
    weights = {price.victim.weights_sha256: Path(price.victim.weights).name for price in prices}
    if len(weights) > 1:
        raise UserError(
            f"{comparison.name}: there are prices of several weights of {side.text} ({', '.join(sorted(weights.values()))}); "
            "name one in `weights`"
        )


def _difference(first: Interval, second: Interval, n: int) -> Interval:
    """The difference of two means with an interval from theirs, as of independent samples (Zou and Donner, 2008).

    Prices are of the same images, whose outcomes the files do not hold: the interval is wider than a paired one would be.
    """
    mean = first.mean - second.mean
    below = math.hypot(first.mean - first.low, second.high - second.mean)
    above = math.hypot(first.high - first.mean, second.mean - second.low)
    return Interval(mean=mean, low=mean - below, high=mean + above, n=n)


# The rule


def _verdict(difference: Interval, margin: float) -> tuple[Literal["holds", "does not hold", "undecided"], str | None]:
    if difference.n < SMALLEST:
        return "undecided", f"n too small ({difference.n} of {SMALLEST} images)"
    if difference.low > margin:
        return "holds", None
    if difference.high < margin:
        return "does not hold", None
    return "undecided", f"n too small: the interval of {difference.n} images contains the margin"
