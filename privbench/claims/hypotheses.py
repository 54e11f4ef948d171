"""Claims of the field as they are written down: a text with its source, and comparisons that would bear it out.

A comparison says that one side's score exceeds the other's by more than a margin. Sides are finished cases, paired image by
image, utility reports of victims, or rows of a benchmark's table (`claims_tables.py`). Nobody writes a verdict: `verdicts.py`
has the rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator

from privbench.claims.benchmark_tables import ClaimPart, TableComparison
from privbench.core import (
    ATTACKS,
    METRICS,
    Adversary,
    Attack,
    ComponentSpec,
    FailedCase,
    Interval,
    Record,
    UserError,
    UtilityReport,
    parse_spec,
    resolve_defense,
    unknown_name,
)
from privbench.core.component import one_line
from privbench.core.stored import yaml_fields

__all__ = ["UTILITY_MEASURES", "Comparison", "HypothesesFile", "Hypothesis", "ResolvedSide", "Side", "read_hypotheses"]

_UTILITY = "utility."
_INFORMED: Mapping[str, frozenset[str]] = {"unaware": frozenset({"unaware"}), "aware": frozenset({"aware", "oracle"})}
"""The adversaries of each attacker of which a claim can speak."""
UTILITY_MEASURES: Mapping[str, Callable[[UtilityReport], float | Interval | None]] = {
    "accuracy": lambda utility: utility.accuracy,
    "defended_accuracy": lambda utility: utility.defended_accuracy,
    "jigsaw_accuracy": lambda utility: utility.jigsaw_accuracy,
    "consistency": lambda utility: utility.consistency,
    "difference_norm": lambda utility: utility.difference_norm,
    "fgsm_accuracy": lambda utility: utility.fgsm_accuracy,
    "pgd_accuracy": lambda utility: utility.pgd_accuracy,
    "calibration_error": lambda utility: utility.calibration_interval or utility.calibration_error,
    "rms_calibration_error": lambda utility: utility.rms_calibration_error,
    "aurra": lambda utility: utility.aurra,
    "aupr": lambda utility: utility.aupr,
    "position_error": lambda utility: utility.position_error,
    "sequence_position_error": lambda utility: utility.sequence_position_error,
    "pairwise_position_error": lambda utility: utility.pairwise_position_error,
    "pairwise_sequence_error": lambda utility: utility.pairwise_sequence_error,
    "mean_corrupted_accuracy": lambda utility: utility.mean_corrupted_accuracy,
}
"""Measure to what it is in a utility report; a bare number has no interval."""


def _several(value: Any) -> Any:
    """One value is a list of one."""
    return [value] if isinstance(value, str) else value


class Side(ClaimPart):
    """Which cases, or which utility report: what is not said is the default."""

    defense: str = "none"
    """As on the command line; parameters that are left out have their defaults."""
    attack: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    """As on the command line, of the attack's first preset; of several the highest leakage of each image counts. Empty for a
    utility report."""
    adversary: Annotated[tuple[Adversary, ...], BeforeValidator(_several)] = ()
    """Empty for any; of several the highest leakage of each image counts."""
    labels: Literal["recovered", "known"] = "recovered"
    """What the attacker knows of the labels."""
    model_mode: Literal["eval", "train"] = "eval"
    """The mode of the client's model."""
    batch_size: int = Field(default=1, gt=0)
    """Images per update."""
    model: str = "vit_mini_patch4_32"
    """The victim."""
    weights: str = "embedded"
    """Its weights: `embedded`, `random`, `pretrained`, the name of a file, or, for a utility report, `any`."""
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


class Comparison(ClaimPart):
    """The claim that a measure of one side exceeds that of the other by more than a margin."""

    name: str
    """What is compared, in a few words."""
    metric: str
    """A metric of the records, such as `psnr`, or `utility.MEASURE`, such as `utility.accuracy`."""
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
    """Whether numbers without intervals decide; where one side has an interval over draws, that has to leave out the margin."""
    uninformed: float | None = None
    """Of a measure of errors: what a guess that knows nothing scores. Where neither side is below, nothing is decided."""

    @property
    def measure(self) -> str | None:
        """Of a utility report; None where records are compared."""
        return self.metric.removeprefix(_UTILITY) if self.metric.startswith(_UTILITY) else None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        sides = (self.higher, self.lower)
        if self.measure is not None:
            if self.measure not in UTILITY_MEASURES:
                raise ValueError(str(unknown_name("measure of a utility report", self.measure, UTILITY_MEASURES)))
            if any(side.attack or side.adversary for side in sides) or self.attacker or self.ceiling is not None:
                raise ValueError(
                    f"{self.metric} is of utility reports, which have no attack, adversary, attacker or ceiling; leave them out"
                )
            if self.uninformed is not None and not self.by_sign:
                raise ValueError("uninformed is for numbers without intervals; give by_sign too, or leave it out")
            return self
        if self.metric not in METRICS.names():
            raise ValueError(
                str(unknown_name("metric", self.metric, [*METRICS.names(), *(_UTILITY + name for name in UTILITY_MEASURES)]))
            )
        if not all(side.attack for side in sides):
            raise ValueError(f"{self.metric} is of attacks; name the attack of both sides")
        if any(side.weights == "any" for side in sides):
            raise ValueError(f"{self.metric} is of attacks on one victim; name its weights")
        if self.by_sign or self.uninformed is not None:
            given = "by_sign is" if self.by_sign else "uninformed is"
            raise ValueError(f"{self.metric} has an interval over images; {given} for utility reports")
        if self.attacker and not any(side.adversary and set(side.adversary) <= _INFORMED[self.attacker] for side in sides):
            raise ValueError(f"the attacker is {self.attacker} and neither side has such an adversary; name it there")
        return self


def _kind(given: Any) -> str:
    of_table = isinstance(given, TableComparison) or (isinstance(given, Mapping) and "table" in given)
    return "table" if of_table else "cases"


class Hypothesis(ClaimPart):
    """One row of the table."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """For links."""
    text: str
    """The claim in our words."""
    source: str
    """Who claims it."""
    limits: str
    """At which scale it is tested here, and what that cannot settle."""
    comparisons: tuple[
        Annotated[Annotated[Comparison, Tag("cases")] | Annotated[TableComparison, Tag("table")], Discriminator(_kind)], ...
    ] = ()
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


class HypothesesFile(ClaimPart):
    """The fields of a file of claims."""

    commands: tuple[str, ...] = ()
    """What computes all records that the claims ask for."""
    claims: tuple[Hypothesis, ...] = Field(min_length=1)
    """In the order of the table."""

    @model_validator(mode="after")
    def _different(self) -> Self:
        ids = [hypothesis.id for hypothesis in self.claims]
        twice = next((one for one in ids if ids.count(one) > 1), None)
        if twice is not None:
            raise ValueError(f"two claims have the id {twice}; give each its own")
        return self


@dataclass(frozen=True)
class ResolvedSide:
    """A side with its names resolved.

    Attributes:
        side: As it is written.
        defense: Its parts with all parameters.
        attacks: Each as it is written to its parameters of the first preset.
    """

    side: Side
    defense: tuple[ComponentSpec, ...]
    attacks: Mapping[str, ComponentSpec]

    @classmethod
    def of(cls, side: Side) -> "ResolvedSide":
        """Resolves a side.

        Raises:
            UserError: A defense, an attack or a parameter is not known.
        """
        attacks = {}
        for text in side.attack:
            spec = parse_spec(text)
            component: type[Attack] = ATTACKS.get(spec.name)
            attacks[text] = ComponentSpec(name=spec.name, parameters=component.from_preset(None, spec.parameters).parameters())
        return cls(side, resolve_defense(side.defense), attacks)

    def _is_victim(self, model: str, weights: str) -> bool:
        return model == self.side.model and self.side.weights in {"any", Path(weights).name}

    def is_case_of(self, record: Record | FailedCase, attack: str) -> bool:
        """Whether a case is one of this side's with one of its attacks: the gradient of one step, from an honest server."""
        side, case, threat = self.side, record.case, record.case.threat_model
        return (
            _completed(case.attack) == self.attacks[attack]
            and case.defense == self.defense
            and (not side.adversary or threat.adversary in side.adversary)
            and (case.local, case.trains, case.server) == (None, None, None)
            and (threat.labels, threat.model_mode) == (side.labels, side.model_mode)
            and (case.batch_size, case.seed) == (side.batch_size, side.seed)
            and self._is_victim(case.victim.model.name, case.victim.weights)
            and (Path(case.data.source).name, case.data.split) == (side.data, "test")
        )

    def is_report_of(self, utility: UtilityReport) -> bool:
        """Whether a utility report is this side's."""
        return (
            utility.defense == self.defense
            and self._is_victim(utility.victim.model.name, utility.victim.weights)
            and (Path(utility.dataset).name, utility.seed) == (self.side.data, self.side.seed)
        )


def _completed(spec: ComponentSpec) -> ComponentSpec:
    """An attack of a record with the defaults of the parameters that it gained since."""
    if spec.name not in ATTACKS.names():
        return spec
    component: type[Attack] = ATTACKS.get(spec.name)
    try:
        return ComponentSpec(name=spec.name, parameters=component.configured(spec.parameters).parameters())
    except UserError:
        return spec


def read_hypotheses(path: Path) -> HypothesesFile:
    """Reads a file of claims and resolves every attack and defense in it.

    Raises:
        UserError: The file cannot be read, a field is wrong, or an attack or defense is not known; the line names it.
    """
    content = yaml_fields(path, "claims", "holds no claims", HypothesesFile.model_fields)
    try:
        file = HypothesesFile.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)[:600]}") from None
    for hypothesis in file.claims:
        for comparison in (one for one in hypothesis.comparisons if isinstance(one, Comparison)):
            for side in (comparison.higher, comparison.lower):
                try:
                    ResolvedSide.of(side)
                except UserError as error:
                    raise UserError(f"{path}, claim {hypothesis.id}, {comparison.name}: {error}") from None
    return file
