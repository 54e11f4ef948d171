"""What a victim can still do on test images under its defense: by `privbench evaluate`, joined to the leaderboard."""

from collections.abc import Mapping
from math import fsum
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field

from privbench.core.case import VictimSpec
from privbench.core.errors import UserError
from privbench.core.record import Interval
from privbench.core.spec import ComponentSpec
from privbench.core.stored import Stored, StrictPart

__all__ = ["MEASURED_FIELDS", "UTILITY_SCHEMA", "Training", "UtilityReport", "not_asked_for"]

UTILITY_SCHEMA: Literal[1] = 1
"""Version of the utility report's fields; a file of another version is refused by name."""
MEASURED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "jigsaw": ("jigsaw_accuracy", "consistency", "difference_norm"),
    "attacks": ("fgsm_accuracy", "pgd_accuracy"),
    "corruptions": ("corrupted_accuracy",),
    "positions": (
        "position_error",
        "sequence_position_error",
        "pairwise_position_error",
        "pairwise_sequence_error",
    ),
}
"""What `--measure` asks for beside accuracy and calibration, with the fields of a utility report that it gives."""


def not_asked_for(measure: str) -> str:
    """The reason in `UtilityReport.unavailable` for the fields of a measure that was not asked for."""
    return f"not asked for; --measure {measure}"


class Training(StrictPart):
    """How weights came to be, from the card that `privbench train` wrote beside them."""

    defense: str
    """The defense they were trained under, all parameters shown; as the card names it."""
    dataset: str
    epochs: int = Field(gt=0)
    recipe: dict[str, float | int | str]
    """The remaining hyper-parameters."""

    @property
    def alike(self) -> tuple[str, int, str]:
        """Data, epochs and hyper-parameters but the seed: victims compare as to what a defense costs where these are equal."""
        return self.dataset, self.epochs, repr(sorted(item for item in self.recipe.items() if item[0] != "seed"))


class UtilityReport(Stored):
    """What a victim does on test images; shares are in [0, 1] with a 95 % bootstrap interval over images."""

    described_as: ClassVar[str] = f"utility report of schema {UTILITY_SCHEMA}"

    schema_version: Literal[1] = UTILITY_SCHEMA
    victim: VictimSpec
    training: Training | None = None
    """How the weights came to be; None where no card says."""
    defense: tuple[ComponentSpec, ...]
    dataset: str
    images: int = Field(gt=0)
    seed: int
    accuracy: Interval
    """Top-1 as deployed: no mask, no shuffle, ordinary positions; layers that draw at inference on, the mean over draws."""
    defended_accuracy: Interval
    """Top-1 when the images go through the defense's batch hook."""
    jigsaw: str
    """The masked jigsaw of the three measures below."""
    jigsaw_accuracy: Interval | None = None
    """Top-1 on jigsawed images (MJP's masked-jigsaw accuracy); masked patches get the unknown position where there is one."""
    consistency: Interval | None = None
    """Share of images that get the same class with and without the jigsaw (MJP)."""
    difference_norm: Interval | None = None
    """L2 distance of the last features with and without the jigsaw (MJP's Diff. Norm); no share."""
    draws: int = Field(default=1, gt=0)
    """Draws of layers that are random at inference; accuracy, calibration, attacks and corruptions are means over them."""
    calibration_error: float
    """Expected calibration error, 15 bins of equal width, L1 (Guo et al., ICML 2017); as deployed."""
    calibration_interval: Interval | None = None
    """The same with a 95 % bootstrap interval over the draws; None where nothing is drawn."""
    rms_calibration_error: float | None = None
    """Root mean squared calibration error in bins of 100 images, as ImageNet-A is scored (Hendrycks et al., CVPR 2021); None of
    fewer than 200 images."""
    aurra: float | None = None
    """Area under the response rate accuracy curve, likewise."""
    aupr: float | None = None
    """How well low confidence finds images of `unknown`, as ImageNet-O is scored; average precision."""
    unknown: str | None = None
    """Name of the images of none of the victim's classes."""
    epsilon: float
    """Largest change of a pixel in the two attacks, in [0, 1]."""
    fgsm_accuracy: Interval | None = None
    """Top-1 under the fast gradient sign method (Goodfellow et al., ICLR 2015); of a random model, by the gradient that is
    expected over its draws (Athalye et al., ICML 2018), and the mean over other draws."""
    pgd_accuracy: Interval | None = None
    """Top-1 under 20 steps of projected gradient descent with a random start (Madry et al., ICLR 2018); likewise."""
    corrupted_accuracy: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Corruption name to top-1 at severities 1 to 5; empty where it was not measured."""
    position_error: float | None = None
    """Mean absolute error, in patches, of a linear regression from a position row to row and column, in five folds (MJP)."""
    sequence_position_error: float | None = None
    """The same to its number in the sequence (MJP's 1-D study)."""
    pairwise_position_error: float | None = None
    """The same from the difference of two rows to their distances in rows and columns (MJP's relative study)."""
    pairwise_sequence_error: float | None = None
    """The same to their distance in the sequence."""
    unavailable: dict[str, str] = Field(default_factory=dict)
    """Measure to the reason why the victim has none."""
    torch: str

    @property
    def measures(self) -> tuple[str, ...]:
        """Names in `MEASURED_FIELDS` that were asked for, whether or not the victim has what they measure."""
        return tuple(
            name
            for name, fields in MEASURED_FIELDS.items()
            if any(self.unavailable.get(field) != not_asked_for(name) for field in fields)
        )

    @property
    def mean_corrupted_accuracy(self) -> float | None:
        """Over all corruptions and severities; None where it was not measured."""
        values = [value for row in self.corrupted_accuracy.values() for value in row]
        return fmean(values) if values else None

    def mean_corruption_error(self, reference: "UtilityReport") -> float:
        """mCE: each corruption's error over the severities relative to a reference's, averaged (Hendrycks and Dietterich).

        Args:
            reference: Of the victim that errors are relative to, on the same images.

        Returns:
            1 for the reference itself; less is more robust.

        Raises:
            UserError: One of the two was not measured, or they were measured on other images.
        """
        if not self.corrupted_accuracy or self.corrupted_accuracy.keys() != reference.corrupted_accuracy.keys():
            raise UserError(
                "a mean corruption error needs the same corruptions in both reports; evaluate with --measure corruptions"
            )
        if (self.dataset, self.images) != (reference.dataset, reference.images):
            raise UserError(
                f"{self.images} images of {self.dataset} against {reference.images} of {reference.dataset}; accepted: the same"
            )
        errors = [
            (len(row) - fsum(row)) / max(len(row) - fsum(reference.corrupted_accuracy[name]), 1e-9)
            for name, row in self.corrupted_accuracy.items()
        ]
        return fmean(errors)
