"""What an audit found, as values: of each attack, of each defense, and the verdict in one sentence."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from privbench.core import Reconstruction
from privbench.scoring import to_uint8

__all__ = ["AttackFinding", "AuditResult", "Pixels", "Verdict", "WhatIf", "pixels_of"]

Pixels = NDArray[np.uint8]
"""One picture, `[height, width, 3]`."""

_FOUND = 2.0
"""By how many dB an image exceeds the photo's mean colour where it shows something of the photo."""

Verdict = Literal["found", "partly", "nothing found by these attacks", "no attack applies"]


@dataclass(frozen=True)
class AttackFinding:
    """What one attack made of the update.

    Attributes:
        name: Of the attack.
        outcome: `ran`, `does not apply`, `failed`, `not needed` because a cheaper one found the images, or `left out` because
            the time was up.
        reason: Why, where it did not run.
        explained: Share of the update that its images explain, at most 1; None where it did not run.
        others_explained: The same of other photos with these labels, the highest.
        cosine: Mean cosine similarity of the update and that of its images.
        others_cosine: The same of other photos with these labels, the highest.
        grade: What these say: found, partly, nothing.
        seconds: Wall time.
        self_test: PSNR in dB of the same attack on an update made of a known photo, of several the one that came back best
            beside its mean colour; None where that was not tried.
        self_test_plain: PSNR in dB of that photo's mean colour, which an attack that finds something exceeds.
        self_test_grade: What explained share and cosine similarity say there, without the photo.
        labels: Of its images.
        flags: Remarks of the attack.
        pictures: Names of the files of its images.
        fitted: Whether its images were fitted to the update, which they then account for whether or not they are true.
    """

    name: str
    outcome: Literal["ran", "does not apply", "failed", "not needed", "left out"]
    reason: str = ""
    explained: float | None = None
    others_explained: float = 0.0
    cosine: float = 0.0
    others_cosine: float = 0.0
    grade: Literal["found", "partly", "nothing"] = "nothing"
    seconds: float = 0.0
    self_test: float | None = None
    self_test_plain: float = 0.0
    self_test_grade: Literal["found", "partly", "nothing"] = "nothing"
    labels: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    fitted: bool = False

    @property
    def unproven(self) -> bool:
        """Whether nothing but the fit itself speaks for its images: no self-test brought a known photo back."""
        return self.fitted and not self.finds_known

    @property
    def finds_known(self) -> bool:
        """Whether it found something of the known photo."""
        return self.self_test is not None and self.self_test >= self.self_test_plain + _FOUND

    @property
    def misled(self) -> bool:
        """Whether it accounted for the known photo's update by images that do not show that photo."""
        return self.self_test is not None and self.self_test_grade != "nothing" and not self.finds_known


@dataclass(frozen=True)
class WhatIf:
    """What a defense would change: the best attack on an update of a known photo under it.

    Attributes:
        defense: As a user writes it.
        psnr: In dB, of the reconstruction of that photo; None where it could not be run.
        explained: Share of that update that the images explain.
        reason: Why it could not be run.
    """

    defense: str
    psnr: float | None
    explained: float | None
    reason: str = ""


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        verdict: One of four.
        sentence: The verdict in one sentence, with its grounds.
        update: What was audited, in words.
        findings: One for each attack, in order.
        best: The reconstruction that has the most to say for it; None where there is none.
        labels: Read off the classifier's update; empty where it has none, or they were known before.
        what_if: What defenses would change.
        matches: For each reconstructed image, the user's photo that is most like it, and the PSNR in dB.
        notes: What was decided on the way.
        pictures: File name to pixels `[height, width, 3]`, of all attacks that ran.
    """

    verdict: Verdict
    sentence: str
    update: str
    findings: tuple[AttackFinding, ...]
    best: Reconstruction | None = None
    labels: tuple[int, ...] = ()
    what_if: tuple[WhatIf, ...] = ()
    matches: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    pictures: Mapping[str, Pixels] = field(default_factory=dict, repr=False)

    @property
    def leaks(self) -> bool:
        """Whether something of the images was found."""
        return self.verdict in {"found", "partly"}

    def lines(self) -> Iterator[str]:
        """The report as lines of text, the verdict last; why attacks do not apply stands in the plan, and on the page."""
        for one in self.findings:
            if one.explained is not None:
                said = f"{one.name}: explains {100 * max(one.explained, 0.0):.1f} % of the update, {one.seconds:.1f} s"
                yield said if one.self_test is None else f"{said}; self-test {one.self_test:.1f} dB"
            elif one.outcome == "failed":
                yield f"{one.name}: failed, {one.reason}"
            elif one.outcome == "left out":
                yield f"{one.name}: left out, {one.reason}; the same command without a time limit continues"
        for outcome in ("not needed", "does not apply"):
            names = ", ".join(one.name for one in self.findings if one.outcome == outcome)
            if names:
                yield f"{outcome.replace('does', 'do') if ',' in names else outcome}: {names}"
        if self.labels:
            yield f"label{'s' if len(self.labels) > 1 else ''} read off the classifier: {', '.join(map(str, self.labels))}"
        for photo, value in self.matches:
            yield f"best match among the photos: {photo}, {value:.1f} dB"
        for what in self.what_if:
            yield f"under {what.defense} a known photo: " + (what.reason if what.psnr is None else f"{what.psnr:.1f} dB")
        yield f"verdict: {self.verdict}. {self.sentence}"
        if not self.leaks:
            yield '"Not found" is never "safe": other attacks may succeed where these fail.'

    def to_json(self) -> str:
        """Everything but the pixels."""
        content = {
            "schema_version": 1,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "update": self.update,
            "labels": list(self.labels),
            "findings": [asdict(finding) for finding in self.findings],
            "what_if": [asdict(one) for one in self.what_if],
            "matches": [{"photo": name, "psnr": value} for name, value in self.matches],
            "notes": list(self.notes),
        }
        return json.dumps(content, indent=2) + "\n"


def pixels_of(images: Tensor) -> Sequence[Pixels]:
    """`[batch, 3, height, width]` in [0, 1] as 8-bit pictures."""
    return [picture.permute(1, 2, 0).numpy() for picture in to_uint8(images.detach().float().cpu())]
