"""Which rows of a gradient carry nothing but noise: how a hidden mask shows although noise was added to the update.

A position row that takes no part in the forward pass has a gradient of exactly zero, and with noise on the update a gradient of
noise alone. How large the noise is, the classifier's gradient tells: a sum of one outer product for each image, so that
everything behind its first singular values is noise.
"""

import math

import torch
from torch import Tensor

__all__ = ["noise_std", "rows_without_signal"]

_MISSED = 1e-4
"""Share of rows of pure noise that are taken for signal."""


def noise_std(gradient: Tensor, rank: int) -> float:
    """The standard deviation of white noise on a weight gradient that is a sum of few outer products.

    Args:
        gradient: `[outputs, inputs]`.
        rank: Number of outer products; the batch size for the classifier.

    Returns:
        At least 0, rounding included; 0 where the gradient has no singular value behind the rank.
    """
    outputs, inputs = gradient.shape
    if rank >= min(outputs, inputs):
        return 0.0
    behind = torch.linalg.svdvals(gradient.detach().double())[rank:]
    return math.sqrt(float(behind.square().sum()) / ((outputs - rank) * (inputs - rank)))


def rows_without_signal(rows: Tensor, std: float) -> Tensor:
    """Which rows are no longer than white noise alone: a chi-squared test.

    Args:
        rows: `[rows, width]`, a gradient.
        std: Of the noise, from `noise_std`; 0 leaves the rows that are exactly zero.

    Returns:
        `[rows]` bool.
    """
    from scipy.stats import chi2  # takes a second

    longest = std**2 * float(chi2.ppf(1 - _MISSED, rows.shape[1]))
    without: Tensor = rows.double().square().sum(dim=1) <= longest
    return without
