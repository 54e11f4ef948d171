"""The record of one finished case: numbers as numbers, one JSON file, enough to regenerate every table and figure."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from privbench.core.case import Case
from privbench.core.flags import EXPLAINED_LIMIT
from privbench.core.stored import Stored, StrictPart
from privbench.core.threat_model import Adversary

__all__ = [
    "RECORD_SCHEMA",
    "FailedCase",
    "ImageResult",
    "Interval",
    "MemberResult",
    "PluginOrigin",
    "Provenance",
    "Record",
    "mean_explained",
]

RECORD_SCHEMA: Literal[1] = 1
"""Version of the record's fields; a file of another version is refused by name. It rises where a field changes its meaning or
goes away; a field that is added has a default, which says of older records that it was not measured."""


_ROUNDING = 1e-9
"""By how much sums in another order may differ, relative to a mean of at least one."""


class Interval(StrictPart):
    """A mean over images with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int = Field(gt=0)
    """Number of images, failed ones included."""


class ImageResult(StrictPart):
    """One private image: what came back."""

    image: str
    """Name of the image within its data set."""
    batch: int
    """Which client batch it was in, from 0."""
    label: int
    recovered_label: int | None
    """The label that the attack used for this image, None where it used none."""
    mask_accuracy: float | None = None
    """Balanced accuracy of the mask that the attack inferred, 0.5 by chance; None where it inferred none."""
    order_accuracy: float | None = None
    """Share of moved patches that the inferred order puts at their right place; None where the attack inferred none."""
    scores: dict[str, float]
    """Metric name to value, on the attack's float pixels; aligned after pairing within the batch."""
    scores_saved: dict[str, float]
    """The same on the reconstruction as saved with 8 bits."""
    explained: float | None = None
    """Share of the update that the reconstruction of the whole batch explains, as its adversary simulates the client: 1 is all,
    0 or less nothing. None where it was not measured, or no labels were to be had."""
    energy: float | None = None
    """Of an image in a batch: the squared norm of its own gradient, at what the model was fed, as a share of the sum over the
    batch's images. Read off the truth and for scoring alone; images of small energy hide in the sum. None of single images."""
    explained_alone: float | None = None
    """Of an image in a batch: the share of this image's own plain gradient that its own reconstruction explains, as `explained`
    is of the whole update. Read off the truth and for scoring alone. None of single images, and where it was not measured."""
    losses: dict[str, float]
    """The attacker's own final losses of the batch."""
    steps: int
    seconds: float
    """Wall time of the attack on the group of this image, divided by the number of images in the group."""
    reconstruction: str | None
    """File name of the saved picture within the case's folder, None where the attack failed."""
    failure: str | None = None
    """Why the attack failed; such an image has the worst value of every metric."""
    flags: tuple[str, ...] = ()
    won_by: str | None = None
    """Of an ensemble: the member whose reconstruction has the highest PSNR, `attack (adversary)`, in the first draw. The scores
    are the highest leakage by each metric over all members, for the private image; all else is the winner's."""

    @property
    def found(self) -> bool | None:
        """Of an image in a batch: whether `explained_alone` reaches the limit of the flag `update-not-explained`."""
        return None if self.explained_alone is None else self.explained_alone >= EXPLAINED_LIMIT


def mean_explained(images: Sequence[ImageResult]) -> float | None:
    """The mean share of the update that reconstructions explain, in [0, 1].

    Args:
        images: At least one. A failed attack explains nothing, nor does a reconstruction whose own share is below 0: a single
            one, which can be at -8000, would hide all others.

    Returns:
        None where the share of an image is not known.
    """
    shares = [0.0 if image.failure else image.explained for image in images]
    known = [max(share, 0.0) for share in shares if share is not None]
    return fmean(known) if len(known) == len(shares) else None


class MemberResult(StrictPart):
    """One member of an ensemble, as it was run in one draw of the client's random choices."""

    attack: str
    adversary: Adversary
    seed: int
    """Seed of the draw."""
    images: int
    """How many images it attacked: those that were not recovered before it."""
    won: int = 0
    """How many images it gave away more of than any other member, by PSNR."""
    psnr: float | None = None
    """Mean PSNR in dB over the images that it attacked; None where there were none."""
    seconds: float = 0.0
    """Wall time of the attack."""
    case_id: str | None = None
    """Its own case, below the ensemble's folder; None where it was not run."""
    skipped: str | None = None
    """Why it does not apply; None where it was run, or had no image left to attack."""


class Provenance(StrictPart):
    """What it takes to judge and repeat the numbers."""

    version: str
    commit: str | None
    torch: str
    python: str
    device: str
    threads: int
    compile: str = "off"
    """Whether the step was to be compiled: `auto`, `on` or `off`."""
    precision: str = "fp32"
    """Of float32 matrix products in the attack: `fp32` or `tf32`."""
    group: int = 1
    """The largest number of client batches that were attacked together."""
    finished: str
    """Time of completion, ISO 8601, UTC."""
    seconds: float
    peak_memory_mib: float


class PluginOrigin(StrictPart):
    """A component that is not built in."""

    kind: str
    """What it is, in the singular: "attack", "defense"."""
    name: str
    target: str
    """`module:attribute`."""
    distribution: str | None
    """The package that registers it; None where a program did."""
    version: str | None
    source_sha256: str | None
    """Of the module's file; None where there is none."""


class Record(Stored):
    """One case, finished."""

    described_as: ClassVar[str] = f"record of schema {RECORD_SCHEMA}"

    schema_version: Literal[1] = RECORD_SCHEMA
    case_id: str
    case: Case
    images: tuple[ImageResult, ...] = Field(min_length=1)
    summary: dict[str, Interval]
    """Metric name to mean and interval, on float pixels."""
    summary_saved: dict[str, Interval]
    """The same on the pictures as saved."""
    unavailable: dict[str, str] = Field(default_factory=dict)
    """Metric name to the reason why it was not computed."""
    lpips_weights_sha256: str | None = None
    """Of the file that LPIPS's trunk was read from; None: the package's or torchvision's own."""
    victim_accuracy: float | None = None
    """Top-1 accuracy of the victim on its test set, from its card, in [0, 1]."""
    victim_accuracy_images: int | None = None
    """On so many test images; None in older records."""
    manipulated_accuracy: float | None = None
    """Of a malicious server: top-1 accuracy of the model that it sent, on its public images, in [0, 1]; None without any."""
    manipulated_accuracy_images: int | None = None
    """On so many public images."""
    suspicion: float | None = None
    """Of a malicious server: what a client could notice in the weights that it sent, from 0 to 1 (`servers.suspicion`)."""
    flags: tuple[str, ...] = ()
    members: tuple[MemberResult, ...] = ()
    """Of an ensemble: its members in the order in which they were run."""
    plugins: tuple[PluginOrigin, ...] = ()
    """The components that are not built in."""
    provenance: Provenance
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every other file of the case's folder, by its name within it."""

    @model_validator(mode="after")
    def _summaries_follow(self) -> Self:
        """A mean that its images do not have is refused."""
        _require_means("summary", self.summary, [image.scores for image in self.images])
        _require_means("summary_saved", self.summary_saved, [image.scores_saved for image in self.images])
        return self


def _require_means(name: str, summary: Mapping[str, Interval], scores: Sequence[Mapping[str, float]]) -> None:
    count = len(scores)
    for metric, interval in summary.items():
        try:
            mean = math.fsum([image[metric] for image in scores]) / count
        except KeyError:
            raise ValueError(f"{name}.{metric} is of a metric that an image lacks") from None
        found = interval.mean
        slack = _ROUNDING * max(1.0, abs(mean))
        if interval.n != count:
            raise ValueError(f"{name}.{metric} is of {interval.n} images, the record has {count}")
        if abs(found - mean) > slack:
            raise ValueError(f"{name}.{metric} has the mean {found:.6g}, its images have {mean:.6g}")
        if not interval.low - slack <= found <= interval.high + slack:
            raise ValueError(f"{name}.{metric} has a mean of {found:.6g} outside its interval")


class FailedCase(Stored):
    """A case that could not be computed, and why; it is tried again on request."""

    described_as: ClassVar[str] = f"failed case of schema {RECORD_SCHEMA}"

    schema_version: Literal[1] = RECORD_SCHEMA
    case_id: str
    case: Case
    reason: str
    """One line."""
    version: str
    finished: str
    """When it failed, ISO 8601, UTC."""
