"""One draw of the client's random choices, attacked by all members of an ensemble on what is left of the images."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch

from privbench.core import (
    Adversary,
    Case,
    ComponentSpec,
    DataSpec,
    ImageResult,
    MemberResult,
    Metric,
    Record,
    UserError,
    adversaries_up_to,
    ensemble_members,
    image_priors,
)
from privbench.runner.context import CaseContext
from privbench.runner.pictures import picture_names
from privbench.scoring import MetricSuite
from privbench.store.case_folder import CaseFolder
from privbench.store.layout import MEMBERS, TRACE
from privbench.store.trace import SCORE

__all__ = ["EnsembleDraw", "RunMember", "over_draws"]

RunMember = Callable[[CaseContext, Path], Record]
"""Computes a member's case below a folder."""

_MARGIN = 0.5
"""dB in the mean, within which two runs of one attack may differ by rounding alone (docs/research/benchmarks.md)."""
_FELL = 0.1
"""A matching loss that ends below this share of its first value has fallen."""


@dataclass(frozen=True)
class _Attempt:
    """What one member made of one image."""

    member: int
    result: ImageResult
    folder: Path


@dataclass
class EnsembleDraw:
    """One draw of the client's random choices, attacked by all members.

    Attributes:
        context: The ensemble's case, with the seed of this draw.
        suite: Its metrics.
        folder: Its folder.
        run_member: Computes a member's case below a folder.
        members: What was run, in order.
        attempts: For each image of the case, what the members made of it.
        flags: Reliability flags found on the way.
    """

    context: CaseContext
    suite: MetricSuite
    folder: CaseFolder
    run_member: RunMember
    members: list[MemberResult] = field(default_factory=list)
    attempts: list[list[_Attempt]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)

    def run(self, recovered: float) -> None:
        """Runs member after member on the batches that still hold an image that is not recovered."""
        case = self.context.case
        self.attempts = [[] for _ in case.data.indices]
        left = list(range(self.context.batches))
        _, attacks = ensemble_members(case)
        for attack in attacks:
            for adversary in adversaries_up_to(case.threat_model.adversary, self.context.defense):
                if left:
                    self._run_member(attack, adversary, left)
                else:
                    self._skip(attack, adversary, None)
                left = [batch for batch in left if not all(self._best(image) >= recovered for image in self._images(batch))]
        if all(member.case_id is None for member in self.members):
            reasons = "; ".join(dict.fromkeys(filter(None, (member.skipped for member in self.members))))
            raise UserError(f"no attack of ensemble {case.attack.name} applies: {reasons}")
        self._flag_adversaries()

    def _images(self, batch: int) -> range:
        size = self.context.case.batch_size
        return range(batch * size, (batch + 1) * size)

    def _best(self, image: int) -> float:
        return max((attempt.result.scores["psnr"] for attempt in self.attempts[image]), default=-float("inf"))

    def _skip(self, attack: ComponentSpec, adversary: Adversary, reason: str | None) -> None:
        self.members.append(
            MemberResult(attack=attack.name, adversary=adversary, seed=self.context.case.seed, images=0, skipped=reason)
        )

    def _run_member(self, attack: ComponentSpec, adversary: Adversary, batches: Sequence[int]) -> None:
        positions = [image for batch in batches for image in self._images(batch)]
        case = self._case(attack, adversary, positions)
        context = self.context.of(case)
        try:
            # An attack that does not apply says so here; an error of the run itself must not pass for that.
            context.require()
        except UserError as refusal:
            self._skip(attack, adversary, str(refusal))
            return
        record = self.run_member(context, self.folder.path / MEMBERS)
        home = self.folder.path / MEMBERS / case.folder
        number = len(self.members)
        for position, result in zip(positions, record.images, strict=True):
            self.attempts[position].append(_Attempt(number, result, home))
        self.members.append(
            MemberResult(
                attack=attack.name,
                adversary=adversary,
                seed=self.context.case.seed,
                images=len(positions),
                psnr=record.summary["psnr"].mean,
                seconds=sum(image.seconds for image in record.images),
                case_id=record.case_id,
            )
        )
        if self._matched_in_vain(record, home):
            self.flags.add("loss-fell-score-did-not")

    def _case(self, attack: ComponentSpec, adversary: Adversary, positions: Sequence[int]) -> Case:
        case, images = self.context.case, self.context.images
        indices = tuple(case.data.indices[position] for position in positions)
        data = DataSpec(
            source=case.data.source,
            split=case.data.split,
            indices=indices,
            sha256=images.fingerprint(indices, case.victim.model.image_size),
        )
        threat_model = case.threat_model.model_copy(update={"adversary": adversary})
        priors = {prior: case.prior_weights[prior] for prior in image_priors(attack) if prior in case.prior_weights}
        changed = {"attack": attack, "threat_model": threat_model, "data": data, "prior_weights": priors}
        return case.model_copy(update={**changed, "seed": self.context.case.seed})

    # Reliability

    def _matched_in_vain(self, record: Record, home: Path) -> bool:
        """Whether the matching loss of most images fell, and they came out no better than mid-grey."""
        ratios = _loss_ratios(home / TRACE)
        psnr = next(metric for metric in self.suite.metrics if metric.name == "psnr")
        context = self.context.of(record.case)
        truths = torch.cat([context.secret(batch).images for batch in range(context.batches)]).float().cpu()
        grey = psnr.compute(torch.full_like(truths, 0.5), truths).tolist()
        in_vain = [
            ratios.get(image.batch, 1.0) < _FELL and image.scores["psnr"] <= bound
            for image, bound in zip(record.images, grey, strict=True)
        ]
        return bool(sum(in_vain) > len(in_vain) / 2)

    def _flag_adversaries(self) -> None:
        """Compares the members that differ in what they know alone, on the images that both attacked."""
        for weaker, one in enumerate(self.members):
            for stronger in range(weaker + 1, len(self.members)):
                if one.attack != self.members[stronger].attack:
                    continue
                gaps = [
                    scores[weaker] - scores[stronger]
                    for attempts in self.attempts
                    if {weaker, stronger} <= (scores := {a.member: a.result.scores["psnr"] for a in attempts}).keys()
                ]
                if gaps and fmean(gaps) >= _MARGIN:
                    self.flags.add("weaker-beat-stronger")

    # The highest leakage

    def results(self) -> list[ImageResult]:
        """The highest leakage of each image; counts for each member what it won."""
        names = picture_names([self.context.images.image_name(index) for index in self.context.case.data.indices])
        return [self._leakiest(image, names[image]) for image in range(len(self.attempts))]

    def _leakiest(self, image: int, picture: str) -> ImageResult:
        attempts = self.attempts[image]
        winner = max(attempts, key=lambda attempt: (attempt.result.failure is None, attempt.result.scores["psnr"]))
        member = self.members[winner.member]
        best = winner.result
        if best.failure is None:
            self.members[winner.member] = member.model_copy(update={"won": member.won + 1})
        else:
            self.flags.add("every-attack-failed")
        if best.reconstruction is not None:
            self.folder.write(picture, (winner.folder / best.reconstruction).read_bytes())
        results = [attempt.result for attempt in attempts]
        return best.model_copy(
            update={
                "batch": image // self.context.case.batch_size,
                "scores": _leakiest([result.scores for result in results], self.suite.metrics),
                "scores_saved": _leakiest([result.scores_saved for result in results], self.suite.metrics),
                "steps": sum(result.steps for result in results),
                "seconds": sum(result.seconds for result in results),
                "reconstruction": None if best.reconstruction is None else picture,
                "won_by": None if best.failure else f"{member.attack} ({member.adversary})",
            }
        )


def _leakiest(scores: Sequence[Mapping[str, float]], metrics: Sequence[Metric]) -> dict[str, float]:
    """Each metric at the value that shows most of the image."""
    return {metric.name: (max if metric.higher_is_leakier else min)(one[metric.name] for one in scores) for metric in metrics}


def over_draws(draws: Sequence[Sequence[ImageResult]]) -> tuple[ImageResult, ...]:
    """Scores as means over draws; steps and seconds as sums; all else as in the first draw."""

    def mean(mappings: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: fmean(mapping[name] for mapping in mappings) for name in mappings[0]}

    return tuple(
        same[0].model_copy(
            update={
                "scores": mean([result.scores for result in same]),
                "scores_saved": mean([result.scores_saved for result in same]),
                "steps": sum(result.steps for result in same),
                "seconds": sum(result.seconds for result in same),
            }
        )
        for same in zip(*draws, strict=True)
    )


def _loss_ratios(trace: Path) -> dict[int, float]:
    """For each batch, the last value of its first loss over the first one; the engine's first loss is a matching term."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    with trace.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            losses = [float(value) for name, value in row.items() if name not in {"batch", "step", "phase", SCORE} and value]
            if losses:
                first.setdefault(int(row["batch"]), losses[0])
                last[int(row["batch"])] = losses[0]
    return {batch: last[batch] / first[batch] for batch in first if first[batch] > 0}
