"""Two series of scores on the same images: the mean difference, its interval, and a test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from privbench.core.record import Interval
from privbench.scoring.summary import bootstrap_interval

__all__ = ["PAIRED_TEST", "PairedDifference", "paired_difference"]

PAIRED_TEST = "Wilcoxon signed-rank, two-sided"
"""The test of `paired_difference`."""


@dataclass(frozen=True)
class PairedDifference:
    """How two series differ.

    Attributes:
        interval: Mean difference with its 95 % bootstrap interval over images, and their number.
        p: Of `PAIRED_TEST`; 1 where all differences are zero. With five images it cannot fall below 0.0625.
    """

    interval: Interval
    p: float


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the same order: Holm (Scandinavian Journal of Statistics 6, 1979).

    The chance that any of the comparisons without a difference falls below a level is at most that level.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def paired_difference(first: Sequence[float], second: Sequence[float], *, seed: int) -> PairedDifference:
    """The differences `second - first` over images.

    Args:
        first: One score per image.
        second: The scores of the same images in the same order.
        seed: Of the bootstrap.

    Raises:
        ValueError: Unequal lengths, no values, or one that is not finite.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} scores; accepted: one of each image on both sides")
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    interval = bootstrap_interval(differences.tolist(), seed=seed)
    p = float(wilcoxon(differences).pvalue) if np.any(differences != 0) else 1.0
    return PairedDifference(interval, p)
