"""The audit itself: runs the planned attacks until one explains the update, tests the set-up on a known photo, and judges."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from privbench.adversary import simulate
from privbench.auditing.evidence import EXPLAINED, PARTLY, labels_and_share
from privbench.auditing.plan import PlannedAttack
from privbench.auditing.report import AttackFinding, AuditReport, Pixels, Verdict, WhatIf, pixels_of
from privbench.client import observe
from privbench.core import (
    Attack,
    LocalTraining,
    Observation,
    Progress,
    Reconstruction,
    UserError,
    build_defense,
    resolve_defense,
)
from privbench.data import ImageSet
from privbench.models import Victim
from privbench.scoring import psnr

__all__ = ["Auditor"]

_UNKNOWN_TRAINING = LocalTraining(steps=1, learning_rate=0.01)
"""What a self-test does where the client's training is not known."""


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
        progress: Where attacks report to.
        folder: Where finished attacks are kept, so that a repeated audit continues; None for nowhere.
    """

    observation: Observation
    victim: Victim
    known: ImageSet
    photos: ImageSet | None = None
    what_if: Sequence[str] = ()
    self_test: bool = True
    seed: int = 0
    say: Callable[[str], None] = lambda _: None
    progress: Progress = field(default_factory=Progress)
    folder: Path | None = None

    def run(self, plan: Sequence[PlannedAttack], notes: Sequence[str] = ()) -> AuditReport:
        """Runs a plan.

        Args:
            plan: From `planned`.
            notes: Of what was decided before.

        Returns:
            The report.
        """
        findings: list[AttackFinding] = []
        best: tuple[float, Reconstruction, PlannedAttack] | None = None
        pictures: dict[str, Pixels] = {}
        for entry in plan:
            if entry.attack is None:
                findings.append(AttackFinding(entry.name, "does not apply", entry.reason))
                continue
            if best is not None and best[0] >= EXPLAINED:
                findings.append(AttackFinding(entry.name, "not needed", f"{best[2].name} explains the update"))
                continue
            finding, found = self._attacked(entry.name, entry.attack)
            findings.append(finding)
            if found is not None and finding.explained is not None:
                pictures |= dict(zip(finding.pictures, pixels_of(found.images), strict=True))
                if best is None or finding.explained > best[0]:
                    best = (finding.explained, found, entry)
        what_if = () if best is None or best[2].attack is None else self._what_if(best[2].attack)
        verdict, sentence = _judged(findings)
        return AuditReport(
            verdict=verdict,
            sentence=sentence,
            update=self.described(),
            findings=tuple(findings),
            best=None if best is None else best[1],
            what_if=what_if,
            matches=() if best is None else self._matches(best[1].images),
            notes=tuple(notes),
            pictures=pictures,
        )

    def described(self) -> str:
        """What is audited, in words."""
        seen = self.observation
        every = len(dict(self.victim.named_parameters()))
        share = "whole" if len(seen.update) == every else f"{len(seen.update)} of {every} parameters"
        trained = "" if seen.kind == "gradient" else f" ({seen.training or 'training not known'})"
        images = f"{seen.batch_size} image{'s' if seen.batch_size > 1 else ''}"
        what = f"a {seen.kind}{trained} of {seen.model.name}"
        return f"{what}, {share}, {seen.dtype}, declared as of {images}, defense {seen.defense_text}"

    def _attacked(self, name: str, attack: Attack) -> tuple[AttackFinding, Reconstruction | None]:
        kept = self._kept(name, attack)
        if kept is not None:
            self.say(f"{name}: kept from before")
            return kept
        begun = time.perf_counter()
        try:
            found, share = self._explained(attack, self.observation)
        except (ArithmeticError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            return AttackFinding(name, "failed", str(error)[:200], seconds=time.perf_counter() - begun), None
        seconds = time.perf_counter() - begun
        tested = self._tested(attack, found.labels) if self.self_test else None
        finding = AttackFinding(
            name,
            "ran",
            explained=share,
            seconds=seconds,
            self_test=None if tested is None else tested[0],
            self_test_explained=None if tested is None else tested[1],
            labels=() if found.labels is None else tuple(found.labels.tolist()),
            flags=found.flags,
            pictures=tuple(f"{name}-{number}.png" for number in range(len(found.images))),
        )
        self.say(f"{name}: explains {100 * share:.1f} % of the update, {seconds:.1f} s")
        self._keep(name, attack, finding, found)
        return finding, found

    def _explained(self, attack: Attack, observation: Observation) -> tuple[Reconstruction, float]:
        found: Reconstruction = attack(observation, generator=torch.Generator().manual_seed(self.seed), progress=self.progress)
        labels, share = labels_and_share(observation, simulate(observation), found)
        return replace(found, labels=labels), share

    # The same on a known photo

    def _known_update(self, defense: str, labels: Tensor | None) -> tuple[Observation, Tensor]:
        seen = self.observation
        specs = resolve_defense(defense)
        size = max(seen.batch_size, build_defense(specs).smallest_batch())
        indices = [number % len(self.known) for number in range(size)]
        images = self.known.load(indices, seen.model.image_size)[0].to(seen.device)
        if labels is None or len(labels) != size:
            labels = torch.arange(size) % seen.model.num_classes
        training = None if seen.kind == "gradient" else seen.training or _UNKNOWN_TRAINING
        threat = seen.threat_model.model_copy(
            update={"training": "known" if seen.training is not None or training is None else "hidden"}
        )
        built = build_defense(specs)
        victim = self.victim if defense == seen.defense_text else cast(Victim, built.prepare_model(deepcopy(self.victim)))
        observation, _ = observe(
            victim,
            seen.model,
            built,
            images,
            labels.to(seen.device),
            declared=specs,
            threat_model=threat,
            generator=torch.Generator().manual_seed(self.seed),
            training=training,
        )
        dtype = getattr(torch, seen.dtype)
        update = {name: value.to(dtype) for name, value in observation.update.items() if name in seen.update}
        return replace(observation, update=update), images

    def _tested(self, attack: Attack, labels: Tensor | None) -> tuple[float, float] | None:
        observation, images = self._known_update(self.observation.defense_text, labels)
        try:
            found, share = self._explained(attack, observation)
        except (UserError, ArithmeticError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            return None
        return float(_best_pairs(found.images, images).max()), share

    def _what_if(self, attack: Attack) -> tuple[WhatIf, ...]:
        results = []
        for text in self.what_if:
            try:
                observation, images = self._known_update(text, None)
                found, share = self._explained(attack, observation)
            except (UserError, ArithmeticError) as error:
                results.append(WhatIf(text, None, None, str(error)[:200]))
                continue
            results.append(WhatIf(text, float(_best_pairs(found.images, images).max()), share))
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

    # Finished attacks

    def _file(self, name: str, attack: Attack) -> Path | None:
        if self.folder is None:
            return None
        digest = hashlib.sha256(json.dumps([name, attack.parameters(), self.seed, self.described()]).encode())
        for key, value in sorted({**self.observation.update, **self.observation.model_state}.items()):
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return self.folder / ".work" / f"{name}-{digest.hexdigest()[:12]}.safetensors"

    def _keep(self, name: str, attack: Attack, finding: AttackFinding, found: Reconstruction) -> None:
        path = self._file(name, attack)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        save_file({"images": found.images.cpu().contiguous()}, str(temporary), {"finding": json.dumps(asdict(finding))})
        temporary.replace(path)

    def _kept(self, name: str, attack: Attack) -> tuple[AttackFinding, Reconstruction] | None:
        path = self._file(name, attack)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                said = json.loads(file.metadata()["finding"])
                images = file.get_tensor("images")
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        said = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        finding = AttackFinding(**said)
        return finding, Reconstruction(images, torch.tensor(finding.labels), flags=finding.flags)


def _best_pairs(found: Tensor, truth: Tensor) -> Tensor:
    """`[found, truth]`, PSNR in dB of every pair."""
    return torch.stack([psnr(one.expand_as(truth), truth) for one in found.to(truth)])


def _judged(findings: Sequence[AttackFinding]) -> tuple[Verdict, str]:
    ran = [finding for finding in findings if finding.explained is not None]
    if not ran:
        reasons = "; ".join(f"{finding.name}: {finding.reason}" for finding in findings)
        return "no attack applies", f"No attack of this suite could be run ({reasons})."
    best = max(ran, key=lambda finding: finding.explained or 0.0)
    share = best.explained or 0.0
    tested = (
        ""
        if best.self_test is None or best.self_test_explained is None
        else f" On an update of the same kind made of a known photo it reaches {best.self_test:.1f} dB."
    )
    if share >= EXPLAINED:
        return "found", f"{best.name} found images that explain {100 * share:.1f} % of this update.{tested}"
    if share >= PARTLY:
        return "partly", f"{best.name} found images that explain {100 * share:.1f} % of this update, not all of it.{tested}"
    nothing = f"No images explain more than {100 * max(share, 0.0):.1f} % of this update."
    if not tested:
        return "nothing found by these attacks", nothing
    able = max((finding.self_test_explained or 0.0 for finding in ran), default=0.0) >= PARTLY
    grounds = (
        "The same attacks find a known photo in an update of this kind: check that batch size, normalisation, weights and "
        "round are the client's; or the client does something that it does not declare."
        if able
        else "They do not find a known photo in such an update either, so that nothing follows of what it holds."
    )
    return "nothing found by these attacks", f"{nothing} {grounds}"
