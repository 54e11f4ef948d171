"""The contract of a metric: a pure function over [0, 1] images, one value per image, with its meaning written down."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Metric"]


@dataclass(frozen=True)
class Metric:
    """One column of the scores.

    Attributes:
        name: Column name.
        compute: `(reconstruction, original)`, both `[batch, 3, height, width]` float in [0, 1], to `[batch]`.
        higher_is_leakier: True if a larger value means that more of the image came back.
        worst: The value that a failed trial gets: no leakage shown.
        best: The value of an exact match (a cap where the definition diverges).
        unit: "dB", or empty.
        summary: One sentence: definition, range, source.
    """

    name: str
    compute: Callable[[Tensor, Tensor], Tensor]
    higher_is_leakier: bool
    worst: float
    best: float
    unit: str = ""
    summary: str = ""
