"""Row and column spaces of a weight's gradient, which is a sum of few outer products, and least squares."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["RowSpace", "least_squares", "off_columns", "row_space"]

_FLOOR = 0.03
"""Share of the first singular value behind the rank below which directions count as equally free of the signal."""


def least_squares(matrix: Tensor, target: Tensor, *, cutoff: float) -> Tensor:
    """The minimum-norm least-squares solution of `matrix @ solution = target`.

    Args:
        matrix: `[equations, unknowns]`.
        target: `[equations, columns]`.
        cutoff: Singular values below this share of the largest count as zero.

    Returns:
        `[unknowns, columns]`.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = values > cutoff * values[:1]
    solution: Tensor = right[kept].T @ ((left[:, kept].T @ target) / values[kept, None])
    return solution


@dataclass(frozen=True)
class RowSpace:
    """The row and column space of a weight gradient that is a sum of few outer products.

    Attributes:
        rank: Number of outer products.
        gap: Ratio of the last singular value within that number to the first behind it; near 1, noise hides the space.
        complement: `[width - rank, width]`, orthonormal rows orthogonal to the row space.
        columns: `[outputs, rank]`, orthonormal basis of the column space.
    """

    rank: int
    gap: float
    complement: Tensor
    columns: Tensor


def row_space(gradient: Tensor, rank: int) -> RowSpace:
    """Splits a weight gradient `[outputs, width]` behind its `rank` largest singular values.

    The number of tokens is public, so nothing is guessed: where tokens depend on each other and the true rank is lower, the
    complement lacks a few directions, and what is in it is as orthogonal to every token as before.
    """
    left, values, right = torch.linalg.svd(gradient.double())
    tiny = torch.finfo(torch.float64).eps * values[0]
    return RowSpace(rank, float(values[rank - 1] / values[rank].clamp(min=tiny)), right[rank:], left[:, :rank])


def off_columns(gradient: Tensor, rank: int) -> Tensor:
    """`[outputs, outputs]`, rows that weigh each direction by the inverse of the gradient's size in it, at most 1.

    Sizes well below the first one behind `rank`, which is rounding, count as equal.
    """
    left, sizes, _ = torch.linalg.svd(gradient.double())
    sizes = nn.functional.pad(sizes, (0, len(left) - len(sizes)))
    floor = _FLOOR * sizes[rank].clamp(min=torch.finfo(torch.float64).tiny)
    weights: Tensor = left.T * (floor / (sizes + floor))[:, None]
    return weights
