"""The audit itself: runs the planned attacks until one finds the images, tests the set-up on a known photo, and judges."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.auditing.evidence import Evidence, evidence_of, labels_of
from privbench.auditing.findings import AttackFinding, Pixels, WhatIf, pixels_of
from privbench.auditing.kept import AuditProgress, KeptAttacks, OutOfTimeError, Step
from privbench.auditing.known import KnownPhotos
from privbench.auditing.plan import CLOSED, PlannedAttack
from privbench.auditing.report import AuditReport
from privbench.auditing.verdicts import best_of, judged
from privbench.computing.interrupt import Interruption, interruptible
from privbench.core import Attack, Observation, Progress, Reconstruction, UserError
from privbench.data import ImageSet
from privbench.models import Victim
from privbench.scoring import psnr

__all__ = ["Auditor", "came_back"]

_TIME_UP = "the time was up"
_NUMERICAL = (ArithmeticError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Auditor:
    """One audit.

    Attributes:
        observation: What is audited.
        victim: Its model, with the weights before training.
        known: Photos for the self-test and for what defenses would change; not the user's private ones.
        photos: The user's own, with which reconstructions are compared; None for none.
        what_if: Defenses to try on a known photo.
        self_test: Whether the set-up is tested on a known photo.
        seed: Of the attacks' random choices.
        say: Gets a line whenever something was done.
        step: Told where an attack stands.
        progress: Where attacks report to.
        folder: Where finished attacks are kept, so that a repeated audit continues; None for nowhere.
        deadline: When to stop and report what is finished, by `time.perf_counter`; None: never.
    """

    observation: Observation
    victim: Victim
    known: ImageSet
    photos: ImageSet | None = None
    what_if: Sequence[str] = ()
    self_test: bool = True
    seed: int = 0
    say: Callable[[str], None] = lambda _: None
    step: Step = lambda *_: None
    progress: Progress = field(default_factory=Progress)
    folder: Path | None = None
    deadline: float | None = None

    def run(self, plan: Sequence[PlannedAttack], notes: Sequence[str] = ()) -> AuditReport:
        """Runs a plan; an interruption is said, and what was done is kept.

        Args:
            plan: From `planned`.
            notes: Of what was decided before.

        Returns:
            The report.
        """
        findings: list[AttackFinding] = []
        found_by: dict[str, tuple[Reconstruction, Attack]] = {}
        pictures: dict[str, Pixels] = {}
        with interruptible() as interruption:
            try:
                for entry in plan:
                    finding, found = self._entry(entry, findings, interruption)
                    findings.append(finding)
                    if found is not None and entry.attack is not None:
                        found_by[entry.name] = (found, entry.attack)
                        pictures |= dict(zip(finding.pictures, pixels_of(found.images), strict=True))
                best = best_of(findings)
                what_if = () if best is None else self._what_if(found_by[best.name][1], interruption)
            except KeyboardInterrupt:
                self._stopped(findings)
                raise
        verdict, sentence = judged(findings, self._share())
        return AuditReport(
            verdict=verdict,
            sentence=sentence,
            update=self.described(),
            findings=tuple(findings),
            best=None if best is None else found_by[best.name][0],
            labels=self._labels(),
            what_if=what_if,
            matches=() if best is None else self._matches(found_by[best.name][0].images),
            notes=tuple(notes),
            pictures=pictures,
        )

    def described(self) -> str:
        """What is audited, in words."""
        seen = self.observation
        trained = "" if seen.kind == "gradient" else f" ({seen.training or 'training not known'})"
        images = f"{seen.batch_size} image{'s' if seen.batch_size > 1 else ''}"
        what = f"a {seen.kind}{trained} of {seen.model.name}"
        return f"{what}, {self._share()}, {seen.dtype}, declared as of {images}, defense {seen.defense_text}"

    def _share(self) -> str:
        every, sent = len(dict(self.victim.named_parameters())), len(self.observation.update)
        return "whole" if sent == every else f"{sent} of {every} parameters"

    def _labels(self) -> tuple[int, ...]:
        """What the classifier's update says of the labels, where they were not known before."""
        if self.observation.labels is not None:
            return ()
        labels = labels_of(self.observation, simulate(self.observation))
        return () if labels is None else tuple(labels.tolist())

    def _stopped(self, findings: Sequence[AttackFinding]) -> None:
        finished = [finding.name for finding in findings if finding.explained is not None]
        if self.folder is None:
            return
        only = f"; --attacks {','.join(finished)} reports what is finished" if finished else ""
        self.say(f"stopped; the same command continues from here{only}")

    # One attack

    def _entry(
        self, entry: PlannedAttack, before: Sequence[AttackFinding], interruption: Interruption
    ) -> tuple[AttackFinding, Reconstruction | None]:
        if entry.attack is None:
            return AttackFinding(entry.name, "does not apply", entry.reason), None
        for earlier in before:
            if earlier.grade == "found" and not (earlier.misled or earlier.unproven):
                return AttackFinding(entry.name, "not needed", f"{earlier.name} found the images"), None
        try:
            return self._attacked(entry.name, entry.attack, interruption)
        except OutOfTimeError as stop:
            return AttackFinding(entry.name, "left out", f"{_TIME_UP} at {stop}" if str(stop) else _TIME_UP), None

    @property
    def _late(self) -> bool:
        return self.deadline is not None and time.perf_counter() >= self.deadline

    def _attacked(self, name: str, attack: Attack, interruption: Interruption) -> tuple[AttackFinding, Reconstruction | None]:
        kept = self._kept.kept(name, attack, "tested") if self.self_test else None
        if kept is not None:
            self.say(f"{name}: kept from before")
            return kept
        untested = self._kept.kept(name, attack, "untested")
        if untested is not None:
            self.say(f"{name}: kept from before{', without its self-test' if self.self_test else ''}")
        finding, found = untested or self._ran(name, attack, interruption)
        if found is None or not self.self_test:
            return finding, found
        try:
            finding = self._tested(finding, attack, found.labels, interruption)
        except OutOfTimeError:
            self.say(f"{name}: {_TIME_UP} before its self-test was finished")
            return finding, found
        self._kept.keep(name, attack, "tested", finding, found)
        return finding, found

    def _ran(self, name: str, attack: Attack, interruption: Interruption) -> tuple[AttackFinding, Reconstruction | None]:
        begun = time.perf_counter()
        try:
            found, evidence = self._explained(name, attack, self.observation, "", interruption)
        except _NUMERICAL as error:
            return AttackFinding(name, "failed", str(error)[:200], seconds=time.perf_counter() - begun), None
        finding = AttackFinding(
            name,
            "ran",
            explained=evidence.images.explained,
            others_explained=evidence.others.explained,
            cosine=evidence.images.cosine,
            others_cosine=evidence.others.cosine,
            grade=evidence.grade,
            seconds=time.perf_counter() - begun,
            labels=() if found.labels is None else tuple(found.labels.tolist()),
            flags=found.flags,
            fitted=name not in CLOSED,
            pictures=tuple(f"{name}-{number}.png" for number in range(len(found.images))),
        )
        self.say(f"{name}: {evidence.in_words()}, {finding.seconds:.1f} s")
        self._kept.keep(name, attack, "untested", finding, found)
        return finding, found

    def _explained(
        self, name: str, attack: Attack, observation: Observation, role: str, interruption: Interruption
    ) -> tuple[Reconstruction, Evidence]:
        if self._late:
            raise OutOfTimeError
        path = self._kept.file(name, attack, role)
        state = None if path is None else path.with_suffix(".state")
        progress = AuditProgress(
            f"{name}, {role}" if role else name, state, interruption, self.step, self.progress, self.deadline
        )
        with interruption.attack(progress):
            found: Reconstruction = attack(observation, generator=torch.Generator().manual_seed(self.seed), progress=progress)
        labels, evidence = evidence_of(observation, simulate(observation), found, self._client.controls(observation.batch_size))
        progress.done()
        return replace(found, labels=labels), evidence

    # The same on a known photo

    @property
    def _client(self) -> KnownPhotos:
        return KnownPhotos(self.known, self.observation, self.victim, self.seed)

    @property
    def _kept(self) -> KeptAttacks:
        seen = self.observation
        labels = None if seen.labels is None else seen.labels.tolist()
        told = f"{labels} {seen.normalisation} {seen.threat_model.model_dump_json()}"
        return KeptAttacks(self.folder, seen, f"{self.seed} {self.described()} {told}")

    def _tested(
        self, finding: AttackFinding, attack: Attack, labels: Tensor | None, interruption: Interruption
    ) -> AttackFinding:
        observation, images = self._client.update(self.observation.defense_text, labels)
        try:
            found, evidence = self._explained(finding.name, attack, observation, "self-test", interruption)
        except (UserError, *_NUMERICAL):
            return finding
        reached, plain = came_back(found.images, images)
        tested = replace(finding, self_test=reached, self_test_plain=plain, self_test_grade=evidence.grade)
        self.say(f"{finding.name}, self-test: {tested.self_test:.1f} dB on a known photo, {evidence.in_words()}")
        return tested

    def _what_if(self, attack: Attack, interruption: Interruption) -> tuple[WhatIf, ...]:
        results = []
        for text in self.what_if:
            try:
                observation, images = self._client.update(text, None)
                found, evidence = self._explained(attack.name, attack, observation, f"under {text}", interruption)
            except (UserError, *_NUMERICAL) as error:
                results.append(WhatIf(text, None, None, str(error)[:200]))
                continue
            except OutOfTimeError:
                results.append(WhatIf(text, None, None, f"left out, {_TIME_UP}"))
                continue
            results.append(WhatIf(text, float(_best_pairs(found.images, images).max()), evidence.images.explained))
            self.say(f"what if {text}: {results[-1].psnr:.1f} dB")
        return tuple(results)

    def _matches(self, images: Tensor) -> tuple[tuple[str, float], ...]:
        if self.photos is None:
            return ()
        size = self.observation.model.image_size
        own = self.photos.load(range(len(self.photos)), size)[0].to(images.device)
        values = _best_pairs(images, own)
        best = values.argmax(1)
        return tuple((self.photos.image_name(int(one)), float(values[number, one])) for number, one in enumerate(best))


def came_back(found: Tensor, photos: Tensor) -> tuple[float, float]:
    """PSNR in dB of the photo that came back best beside its own mean colour, and that of its mean colour.

    Args:
        found: `[images, 3, height, width]` in [0, 1].
        photos: `[photos, 3, height, width]` in [0, 1], the truth of a self-test.
    """
    plain = psnr(photos.mean((2, 3), keepdim=True).expand_as(photos), photos)
    reached = _best_pairs(found, photos).max(dim=0).values
    best = int((reached - plain).argmax())
    return float(reached[best]), float(plain[best])


def _best_pairs(found: Tensor, truth: Tensor) -> Tensor:
    """`[found, truth]`, PSNR in dB of every pair."""
    return torch.stack([psnr(one.expand_as(truth), truth) for one in found.to(truth)])
