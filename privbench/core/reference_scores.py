"""What scores are held against: pictures that nobody reconstructed, and how well a picture picks its original out of many."""

from typing import ClassVar, Literal

from pydantic import Field

from privbench.core.case import DataSpec
from privbench.core.record import Interval
from privbench.core.stored import Stored

__all__ = ["REFERENCE_SCHEMA", "Calibration", "Identification"]

REFERENCE_SCHEMA: Literal[1] = 1
"""Version of the fields of both; a file of another version is refused by name."""


class Calibration(Stored):
    """Scores of the calibration pictures for one selection of images."""

    described_as: ClassVar[str] = f"calibration of schema {REFERENCE_SCHEMA}"

    schema_version: Literal[1] = REFERENCE_SCHEMA
    data: DataSpec
    image_size: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    lpips: str
    lpips_weights_sha256: str | None = None
    """Of the file that LPIPS's trunk was read from; None: the package's or torchvision's own."""
    seed: int
    rows: dict[str, dict[str, Interval]]
    """Row name to metric name to mean and interval over the images."""


class Identification(Stored):
    """Ranks of the true images among candidates by their likeness to the reconstructions of one case."""

    described_as: ClassVar[str] = f"identification of schema {REFERENCE_SCHEMA}"

    schema_version: Literal[1] = REFERENCE_SCHEMA
    case_id: str
    candidates: int = Field(gt=1)
    """Number of candidates, the true image included."""
    lpips_weights_sha256: str | None = None
    """As of `Calibration`."""
    seed: int
    ranks: dict[str, tuple[int, ...]]
    """Distance name to the rank of the true image of each reconstruction, 1: the nearest of all. A failed attack has the
    last rank."""

    def top(self, distance: str, k: int) -> float:
        """Share of images whose true image is among the `k` nearest; by chance `k / candidates`."""
        ranks = self.ranks[distance]
        return sum(rank <= k for rank in ranks) / len(ranks)
