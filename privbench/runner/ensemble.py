"""An ensemble's case: its attacks one after another on what is left, and the worst case over them as one record.

The attacks are ordinary cases of fewer images, kept below the ensemble's folder, so that an interrupted ensemble continues.
They are parts of its row and no rows of their own: the images that they attacked were chosen by what came before.
"""

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict, Unpack

import torch

from privbench.core import (
    Adversary,
    Case,
    ComponentSpec,
    ComputeOptions,
    DataSpec,
    ImageResult,
    MemberResult,
    Metric,
    Record,
    UserError,
    adversaries_up_to,
    ensemble_members,
    is_ensemble,
)
from privbench.models import victim_accuracy
from privbench.runner.execute import Suites, run_case, summarise
from privbench.runner.listener import Listener
from privbench.runner.pictures import Draw, picture_names, shown_results
from privbench.runner.prepare import Prepared, prepare
from privbench.runner.provenance import take_provenance
from privbench.scoring import MetricSuite
from privbench.store.case_folder import CaseFolder
from privbench.store.files import check_output
from privbench.store.layout import CASE, COMPARISON, MEMBERS, TRACE
from privbench.store.trace import SCORE

__all__ = ["FLAGS", "run"]

FLAGS: Mapping[str, str] = {
    "only-unaware-attackers": "no attacker who knows of the defense was run; --adversary aware runs them",
    "randomised-defense-once": "the defense is random and was drawn once; --attack rand draws it three times",
    "zero-gradient": "some parameter's gradient is zero in every entry: attacks that need it see nothing",
    "weaker-beat-stronger": "an attack that knows less ended at least 0.5 dB above the same attack that knows more",
    "loss-fell-score-did-not": "an attack matched the gradient, and its images are no nearer to the truth than mid-grey",
    "every-attack-failed": "no attack returned anything for some image, which gets the worst scores",
}
"""Reliability flags of an ensemble's record, and what they mean."""

_MARGIN = 0.5
"""dB in the mean, within which two runs of one attack may differ by rounding alone (docs/research/benchmarks.md)."""
_FELL = 0.1
"""A matching loss that ends below this share of its first value has fallen."""


class _How(TypedDict, total=False):
    """What an ensemble hands on to its members, as `run_case` takes it."""

    checkpoint_interval: float
    group: int | None
    compute: ComputeOptions | None


def run(
    case: Case,
    *,
    output: Path,
    devices: Sequence[torch.device],
    force: bool = False,
    listener: Listener | None = None,
    suites: Suites | None = None,
    draw: Draw | None = None,
    **how: Unpack[_How],
) -> Record:
    """Computes any case, an attack's or an ensemble's; arguments as of `run_case`, which takes the attacks'.

    Raises:
        UserError: As `run_case`, or no attack of the ensemble applies.
        Interrupted: Stopped by a signal; what is needed to continue is saved.
    """
    listener, suites = listener or Listener(), suites or Suites()
    if not is_ensemble(case):
        return run_case(case, output=output, devices=devices, force=force, listener=listener, suites=suites, draw=draw, **how)
    check_output(output)
    folder = CaseFolder(output, case)
    if not force and (record := folder.record()) is not None:
        listener.reused(record)
        return record
    started = time.perf_counter()
    prepared = prepare(case, devices[0])
    suite = suites.suite(prepared)
    with folder.locked():
        if force or folder.has_unusable_record():
            folder.clear()
        folder.write(CASE, case.to_yaml().encode())
        ensemble, _ = ensemble_members(case)
        runner = _Runner(tuple(devices), listener, suites, how)
        draws = [_Draw(prepared, suite, folder, runner, case.seed + number) for number in range(ensemble.draws)]
        for one in draws:
            one.run(ensemble.given_away)
        results = _over_draws([one.results() for one in draws])
        if draw is not None:
            folder.write(COMPARISON, draw(shown_results(prepared, results, folder.path)))
        record = _record(prepared, suite, draws, results, time.perf_counter() - started, runner)
        record = folder.finish(record)
        listener.finished(record)
        return record


@dataclass(frozen=True)
class _Runner:
    """How the members are computed."""

    devices: tuple[torch.device, ...]
    listener: Listener
    suites: Suites
    how: _How

    def __call__(self, case: Case, output: Path) -> Record:
        return run_case(case, output=output, devices=self.devices, listener=self.listener, suites=self.suites, **self.how)


@dataclass(frozen=True)
class _Attempt:
    """What one member made of one image."""

    member: int
    result: ImageResult
    folder: Path


@dataclass
class _Draw:
    """One draw of the client's random choices, attacked by all members.

    Attributes:
        prepared: The ensemble's case.
        suite: Its metrics.
        folder: Its folder.
        runner: How to compute.
        seed: Of the draw.
        members: What was run, in order.
        attempts: For each image of the case, what the members made of it.
        flags: Reliability flags found on the way.
    """

    prepared: Prepared
    suite: MetricSuite
    folder: CaseFolder
    runner: _Runner
    seed: int
    members: list[MemberResult] = field(default_factory=list)
    attempts: list[list[_Attempt]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)

    def run(self, given_away: float) -> None:
        """Runs member after member on the batches that still hold an image that is not given away."""
        case = self.prepared.case
        self.attempts = [[] for _ in case.data.indices]
        left = list(range(self.prepared.batches))
        _, attacks = ensemble_members(case)
        for attack in attacks:
            for adversary in adversaries_up_to(case.threat_model.adversary, self.prepared.defense):
                if left:
                    self._run_member(attack, adversary, left)
                else:
                    self._skip(attack, adversary, None)
                left = [batch for batch in left if not all(self._best(image) >= given_away for image in self._images(batch))]
        if all(member.case_id is None for member in self.members):
            reasons = "; ".join(dict.fromkeys(filter(None, (member.skipped for member in self.members))))
            raise UserError(f"no attack of ensemble {case.attack.name} applies: {reasons}")
        self._flag_adversaries()

    def _images(self, batch: int) -> range:
        size = self.prepared.case.batch_size
        return range(batch * size, (batch + 1) * size)

    def _best(self, image: int) -> float:
        return max((attempt.result.scores["psnr"] for attempt in self.attempts[image]), default=-float("inf"))

    def _skip(self, attack: ComponentSpec, adversary: Adversary, reason: str | None) -> None:
        self.members.append(MemberResult(attack=attack.name, adversary=adversary, seed=self.seed, images=0, skipped=reason))

    def _run_member(self, attack: ComponentSpec, adversary: Adversary, batches: Sequence[int]) -> None:
        positions = [image for batch in batches for image in self._images(batch)]
        case = self._case(attack, adversary, positions)
        try:
            # An attack that does not apply says so here; an error of the run itself must not pass for that.
            replace(self.prepared, case=case).attack.require(replace(self.prepared, case=case).observe(0)[0])
        except UserError as refusal:
            self._skip(attack, adversary, str(refusal))
            return
        record = self.runner(case, self.folder.path / MEMBERS)
        home = self.folder.path / MEMBERS / case.folder
        number = len(self.members)
        for position, result in zip(positions, record.images, strict=True):
            self.attempts[position].append(_Attempt(number, result, home))
        self.members.append(
            MemberResult(
                attack=attack.name,
                adversary=adversary,
                seed=self.seed,
                images=len(positions),
                psnr=record.summary["psnr"].mean,
                seconds=sum(image.seconds for image in record.images),
                case_id=record.case_id,
            )
        )
        if self._matched_in_vain(record, home):
            self.flags.add("loss-fell-score-did-not")

    def _case(self, attack: ComponentSpec, adversary: Adversary, positions: Sequence[int]) -> Case:
        case, images = self.prepared.case, self.prepared.images
        indices = tuple(case.data.indices[position] for position in positions)
        data = DataSpec(
            source=case.data.source,
            split=case.data.split,
            indices=indices,
            sha256=images.fingerprint(indices, case.victim.model.image_size),
        )
        threat_model = case.threat_model.model_copy(update={"adversary": adversary})
        return case.model_copy(update={"attack": attack, "threat_model": threat_model, "data": data, "seed": self.seed})

    # Reliability

    def _matched_in_vain(self, record: Record, home: Path) -> bool:
        """Whether the matching loss of most images fell, and they came out no better than mid-grey."""
        ratios = _loss_ratios(home / TRACE)
        psnr = next(metric for metric in self.suite.metrics if metric.name == "psnr")
        prepared = replace(self.prepared, case=record.case)
        truths = torch.cat([prepared.observe(batch)[1].images for batch in range(prepared.batches)]).float().cpu()
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
                if gaps and sum(gaps) / len(gaps) >= _MARGIN:
                    self.flags.add("weaker-beat-stronger")

    # The worst case

    def results(self) -> list[ImageResult]:
        """The worst case of each image; counts for each member what it won."""
        names = picture_names([self.prepared.images.image_name(index) for index in self.prepared.case.data.indices])
        return [self._worst(image, names[image]) for image in range(len(self.attempts))]

    def _worst(self, image: int, picture: str) -> ImageResult:
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
                "batch": image // self.prepared.case.batch_size,
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


def _over_draws(draws: Sequence[Sequence[ImageResult]]) -> tuple[ImageResult, ...]:
    """Scores as means over draws; steps and seconds as sums; all else as in the first draw."""

    def mean(mappings: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: sum(mapping[name] for mapping in mappings) / len(mappings) for name in mappings[0]}

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


def _record(
    prepared: Prepared,
    suite: MetricSuite,
    draws: Sequence[_Draw],
    results: tuple[ImageResult, ...],
    seconds: float,
    runner: _Runner,
) -> Record:
    case = prepared.case
    attacked = sum(member.seconds for draw in draws for member in draw.members)
    return Record(
        case_id=case.identity,
        case=case,
        images=results,
        summary=summarise([image.scores for image in results], case.seed),
        summary_saved=summarise([image.scores_saved for image in results], case.seed),
        unavailable=dict(suite.unavailable),
        victim_accuracy=victim_accuracy(case.victim, prepared.defense),
        flags=_flags(prepared, draws, results),
        members=tuple(member for draw in draws for member in draw.members),
        provenance=take_provenance(
            runner.devices,
            # Members that were finished before an interruption count with the time that they took then.
            max(seconds, attacked),
            compute=runner.how.get("compute") or ComputeOptions(),
            group=runner.how.get("group") or 1,
        ),
    )


def _flags(prepared: Prepared, draws: Sequence[_Draw], results: Sequence[ImageResult]) -> tuple[str, ...]:
    case = prepared.case
    flags = {flag for draw in draws for flag in draw.flags} | {flag for image in results for flag in image.flags}
    flags |= prepared.flags
    if any(image.failure for image in results):
        flags.add("failed-images")
    if case.threat_model.adversary == "unaware" and prepared.defense.is_simulated():
        flags.add("only-unaware-attackers")
    if len(draws) == 1 and prepared.is_random():
        flags.add("randomised-defense-once")
    if any(not gradient.any() for gradient in prepared.observe(0)[0].gradients.values()):
        flags.add("zero-gradient")
    return tuple(sorted(flags))
