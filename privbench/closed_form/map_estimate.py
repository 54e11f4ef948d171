"""The most likely patches by equations that are too few, noisy or rounded, or lack the share of hidden patches.

`Δᵀ X = ∂W` seldom holds alone: with more patches than the width it has many solutions; noise, rounding and pruning spoil it;
patches that share a position row (MJP) take part unseen. What no X explains shows how large the noise is (`unexplained`).
Against it stands what images look like (`variation`): the maximum a posteriori estimate, by a few reweighted rounds of
conjugate gradients.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.closed_form.unexplained import Unexplained
from privbench.closed_form.variation import Variation, colours

__all__ = ["likely_patches", "patches_beside_hidden", "patches_of_sums"]

_SURE = 1e4
"""Inverse variance of a coefficient, in normalised pixels, above which images have no say in it."""
_RIDGE = 1e-2
"""Inverse variance of normalised pixels about which nothing else is known, not even by their neighbours."""
_ROUNDS = 6
_STEPS = 60
"""Of conjugate gradients in a round; 200 change no result by 0.1 dB."""
_ACCURACY = 1e-5


def likely_patches(gradients: Tensor, target: Tensor, patch_size: int, *, whole: bool) -> Tensor:
    """The most likely solution of `gradientsᵀ X = target`, both observed with noise of unknown size.

    Args:
        gradients: `[patches, width]` float64. A row of zeros is of a hidden patch: it takes part in the target by a gradient
            that nobody knows, and what surrounds it fills its place.
        target: `[width, pixels]` float64, gradient of the patch embedding.
        patch_size: Side of a patch in pixels.
        whole: Whether the patches are a square image in the order of its grid, so that neighbours resemble each other across
            their borders; otherwise only the pixels of one patch do.

    Returns:
        `[patches, pixels]`, normalised.
    """
    unexplained = Unexplained.of(gradients, target)
    return _most_likely(unexplained, unexplained.noise(patch_size), patch_size, whole=whole).to(gradients)


def patches_beside_hidden(gradients: Tensor, target: Tensor, patch_size: int, *, whole: bool) -> Tensor:
    """As `likely_patches`, where hidden patches are the only noise; arguments and result are the same."""
    unexplained = Unexplained.of(gradients, target)
    return _most_likely(unexplained, unexplained.hidden_noise(patch_size), patch_size, whole=whole).to(gradients)


def patches_of_sums(weights: Tensor, sums: Tensor, noise: Tensor, patch_size: int, *, whole: bool) -> Tensor:
    """The most likely patches whose sums are known with noise of known covariance.

    Args:
        weights: `[sums, patches]` float64.
        sums: `[sums, pixels]` float64.
        noise: `[pixels, pixels]` of each sum.
        patch_size: Side of a patch in pixels.
        whole: As in `likely_patches`.

    Returns:
        `[patches, pixels]`, normalised.
    """
    return _solved(_System.of(weights.cpu(), sums.cpu(), noise.cpu()), patch_size, whole=whole).to(weights)


def _most_likely(equations: Unexplained, noise: Tensor, patch_size: int, *, whole: bool) -> Tensor:
    return _solved(_System.of(equations.matrix, equations.target, noise), patch_size, whole=whole)


def _solved(system: "_System", patch_size: int, *, whole: bool) -> Tensor:
    side = round(len(system.rows) ** 0.5) if whole else None
    variation = Variation.everywhere(side, patch_size)
    weak = torch.zeros_like(system.solved)
    for _ in range(_ROUNDS + 1):
        weak = system.improved(weak, variation)
        patches = system.patches(weak)
        variation = variation.at(patches)
    return patches


@dataclass(frozen=True)
class _System:
    """The equations in coordinates `X = rowsᵀ Y inner` in which each entry of Y is observed by itself.

    Attributes:
        rows: `[patches, patches]`, right singular vectors of the equations' matrix.
        inner: `[pixels, pixels]`, eigenvectors of the noise's covariance as rows.
        solved: `[patches, pixels]`, what the equations say of Y.
        weights: The same shape, inverse variance of that.
    """

    rows: Tensor
    inner: Tensor
    solved: Tensor
    weights: Tensor

    @classmethod
    def of(cls, matrix: Tensor, target: Tensor, noise: Tensor) -> "_System":
        left, sizes, rows = torch.linalg.svd(matrix, full_matrices=True)
        number = int((sizes > 0).sum())
        sizes = sizes[:number, None]
        variances, vectors = torch.linalg.eigh(noise)
        solved = matrix.new_zeros(len(rows), len(vectors))
        weights = torch.zeros_like(solved)
        solved[:number] = left[:, :number].T @ target @ vectors / sizes
        weights[:number] = sizes**2 / variances
        return cls(rows, vectors.T, solved, weights)

    def patches(self, weak: Tensor) -> Tensor:
        """`[patches, pixels]`, sure entries as the equations have them, the others given."""
        return self.rows.T @ torch.where(self.weights > _SURE, self.solved, weak) @ self.inner

    def improved(self, weak: Tensor, variation: Variation) -> Tensor:
        """The weak entries of Y that minimise misfit and variation together, from those given: conjugate gradients."""
        unsure = self.weights <= _SURE
        some = unsure.any(dim=1)
        rows, unsure, weights, solved = self.rows[some], unsure[some], self.weights[some], self.solved[some]

        def curved(entries: Tensor) -> Tensor:
            patches = rows.T @ entries @ self.inner
            smooth = rows @ (variation.curvature(patches) + _RIDGE * patches) @ self.inner.T
            return unsure * (weights * entries + smooth)

        # The sure entries' share in the slope is a constant.
        everything = self.patches(weak)
        slope = rows @ (variation.curvature(everything) + _RIDGE * everything) @ self.inner.T
        residual = unsure * (weights * (solved - weak[some]) - slope)
        easy = 1 / (weights + self._diagonal(variation) + _RIDGE)
        step, moved = easy * residual, torch.zeros_like(residual)
        direction, size = step, (residual * step).sum()
        first = size
        for _ in range(_STEPS):
            if not size > _ACCURACY**2 * first:
                break
            product = curved(direction)
            length = size / (direction * product).sum()
            moved, residual = moved + length * direction, residual - length * product
            step = easy * residual
            following = (residual * step).sum()
            direction, size = step + following / size * direction, following
        result = weak.clone()
        result[some] += moved
        return result

    def _diagonal(self, variation: Variation) -> Tensor:
        """`[pixels]`, about how the variation curves along each coordinate."""
        mixed = torch.einsum("cd,edp->ecp", colours(), self.inner.reshape(len(self.inner), 3, -1)).square().sum(dim=2)
        return mixed @ variation.mean_curvature()
