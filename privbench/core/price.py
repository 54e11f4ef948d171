"""The price of a defense, what its victim can still do on test images: by `privbench evaluate`, joined to the leaderboard."""

from typing import ClassVar, Literal

from pydantic import Field

from privbench.core.case import VictimSpec
from privbench.core.record import Interval
from privbench.core.spec import ComponentSpec
from privbench.core.stored import Stored, StrictPart

__all__ = ["PRICE_SCHEMA", "Price", "Training"]

PRICE_SCHEMA: Literal[1] = 1
"""Version of the price's fields; a file of another version is refused by name."""


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
        """Data, epochs and hyper-parameters: victims compare as to what a defense costs where these are equal."""
        return self.dataset, self.epochs, repr(sorted(self.recipe.items()))


class Price(Stored):
    """What a victim does on test images; shares are in [0, 1] with a 95 % bootstrap interval over images."""

    described_as: ClassVar[str] = f"price of schema {PRICE_SCHEMA}"

    schema_version: Literal[1] = PRICE_SCHEMA
    victim: VictimSpec
    training: Training | None = None
    """How the weights came to be; None where no card says."""
    defense: tuple[ComponentSpec, ...]
    dataset: str
    images: int = Field(gt=0)
    seed: int
    accuracy: Interval
    """Top-1 as deployed: no mask, no shuffle, ordinary positions."""
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
    calibration_error: float
    """Expected calibration error, 15 bins of equal width, L1 (Guo et al., ICML 2017)."""
    epsilon: float
    """Largest change of a pixel in the two attacks, in [0, 1]."""
    fgsm_accuracy: Interval | None = None
    """Top-1 under the fast gradient sign method (Goodfellow et al., ICLR 2015)."""
    pgd_accuracy: Interval | None = None
    """Top-1 under 20 steps of projected gradient descent with a random start (Madry et al., ICLR 2018)."""
    corrupted_accuracy: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Corruption name to top-1 at severities 1 to 5; empty where it was not measured."""
    position_error: float | None = None
    """Mean absolute error, in patches, of a linear regression from a position row to its place, in five folds (MJP)."""
    unavailable: dict[str, str] = Field(default_factory=dict)
    """Measure to the reason why the victim has none."""
    torch: str

    @property
    def mean_corrupted_accuracy(self) -> float | None:
        """Over all corruptions and severities; None where it was not measured."""
        values = [value for row in self.corrupted_accuracy.values() for value in row]
        return sum(values) / len(values) if values else None
