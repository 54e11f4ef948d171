"""The most likely patches where a gradient was made noisy, rounded or pruned, or where some patches' share in it is hidden.

The closed form's equations under a prior: `Δᵀ X = ∂W` has more equations than unknowns where the width exceeds the number of
patches X. What no X explains shows how large the noise is and how it is correlated, whatever made it. Weighed against it, a
Gaussian prior on smooth images decides what the noise hides. Patches that share a position row (MJP) make a noise of low rank:
what no X explains spans their contents, and across that span the equations of all other patches are exact.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from privbench.closed_form.algebra import CORRELATION_LENGTH, channel_correlation, grid_correlation, smooth_precision
from privbench.core.patches import from_patches, to_patches

__all__ = ["likely_patches", "patches_beside_hidden"]

_ROUNDING = 1e-7
"""Of float32: no noise is taken to be smaller, relative to the right-hand side."""
_TINY = 1e-30
_SLACK = 1e-6
"""Of the variance that hidden patches cause on average, what is left where they cause none; in a prototype
1e-4 and 1e-6 did alike."""
_ACCURACY = 1e-6
_ACCURACY_OF_EXACT = 1e-9
"""The same where equations are weighed so heavily that the prior is a small part of the residual."""
_ITERATIONS = 100
"""Measured: at most 61 under noise, 7 to 60 with hidden patches where spare equations suffice; else it
stops here."""


def likely_patches(gradients: Tensor, target: Tensor, patch_size: int, *, whole: bool) -> Tensor:
    """The most likely solution of `gradientsᵀ X = target`, both observed with noise of unknown size.

    The noise is taken to be alike in all equations and correlated between pixels as the residual of the least-squares
    solution is; normalised pixels have unit variance and the correlation of `smooth_precision`.

    Args:
        gradients: `[patches, width]` float64, fewer patches than the width. A row of zeros is of a hidden patch: it takes part
            in the target by a gradient that nobody knows, and what surrounds it fills its place.
        target: `[width, pixels]` float64, gradient of the patch embedding.
        patch_size: Side of a patch in pixels.
        whole: Whether the patches are a square image in the order of its grid, so that neighbours resemble each other across
            their borders; otherwise only the pixels of one patch do.

    Returns:
        `[patches, pixels]`, normalised.
    """
    noise = _noise_covariance(_Unexplained.of(gradients, target), smooth_precision(patch_size))
    return _most_likely(gradients, target, noise, patch_size, whole=whole, accuracy=_ACCURACY)


def patches_beside_hidden(gradients: Tensor, target: Tensor, patch_size: int, *, whole: bool) -> Tensor:
    """As `likely_patches`, where hidden patches are the only noise; arguments and result are the same."""
    noise = _hidden_covariance(_Unexplained.of(gradients, target), smooth_precision(patch_size))
    return _most_likely(gradients, target, noise, patch_size, whole=whole, accuracy=_ACCURACY_OF_EXACT)


def _most_likely(gradients: Tensor, target: Tensor, noise: Tensor, patch_size: int, *, whole: bool, accuracy: float) -> Tensor:
    matrix, right, within = gradients.T.cpu(), target.cpu(), smooth_precision(patch_size)
    side = round(len(gradients) ** 0.5)
    between = grid_correlation(side, patch_size) if whole else torch.eye(len(gradients), dtype=torch.float64)
    separable = _Separable.of(matrix, noise, between, within)
    wanted = matrix.T @ torch.linalg.solve(noise, right.T).T
    start = separable.solved(wanted)
    if not whole:
        return start.to(gradients)
    normal, weights, image = matrix.T @ matrix, torch.linalg.inv(noise), _ImagePrecision.of(side * patch_size, patch_size)

    def applied(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        patches = torch.as_tensor(flat).reshape(start.shape)
        weighed: Tensor = normal @ patches @ weights + image(patches)
        return weighed.flatten().numpy()

    def preconditioned(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        return separable.solved(torch.as_tensor(flat).reshape(start.shape)).flatten().numpy()

    operators = (LinearOperator((start.numel(),) * 2, matvec=given, dtype=np.float64) for given in (applied, preconditioned))
    system, approximate = operators
    solution, _ = cg(
        system, wanted.flatten().numpy(), start.flatten().numpy(), M=approximate, rtol=accuracy, maxiter=_ITERATIONS
    )
    return torch.as_tensor(solution).reshape(start.shape).to(gradients)


@dataclass(frozen=True)
class _Unexplained:
    """What no solution explains.

    Attributes:
        missed: `[width, pixels]`, the residual of least squares.
        spare: Equations beyond the patches that are not hidden.
        hidden: Patches that are.
        size: Variance of an equation's noise.
        floor: Variance below which it is rounding.
    """

    missed: Tensor
    spare: int
    hidden: int
    size: Tensor
    floor: Tensor

    @classmethod
    def of(cls, gradients: Tensor, target: Tensor) -> "_Unexplained":
        matrix, right = gradients.T.cpu(), target.cpu()
        known = matrix.any(dim=0)
        basis, _ = torch.linalg.qr(matrix[:, known])
        missed = right - basis @ (basis.T @ right)
        spare = len(matrix) - int(known.sum())
        floor = (_ROUNDING**2 * right.square().mean()).clamp(min=_TINY)
        size = missed.square().sum() / (spare * right.shape[1]) + floor
        return cls(missed, spare, int((~known).sum()), size, floor)


def _noise_covariance(unexplained: _Unexplained, within: Tensor) -> Tensor:
    """`[pixels, pixels]`, covariance of an equation's noise.

    The prior's own covariance fills the directions that too few spare equations leave open: most of the noise is that of the
    matrix times the patches, which is as smooth as they are.
    """
    missed, spare, pixels = unexplained.missed, unexplained.spare, len(within)
    share = max(1, pixels - spare)
    covariance: Tensor = (missed.T @ missed + share * unexplained.size * torch.linalg.inv(within)) / (spare + share)
    return covariance + unexplained.floor * torch.eye(pixels, dtype=torch.float64)


def _hidden_covariance(unexplained: _Unexplained, within: Tensor) -> Tensor:
    """The same of hidden patches alone: they leave no more directions open than spare equations lack to their number."""
    missed, spare, hidden, size = unexplained.missed, unexplained.spare, unexplained.hidden, unexplained.size
    covariance: Tensor = missed.T @ missed / spare + max(0, hidden - spare) / max(1, hidden) * size * torch.linalg.inv(within)
    return covariance + (unexplained.floor + _SLACK * size) * torch.eye(len(within), dtype=torch.float64)


@dataclass(frozen=True)
class _Separable:
    """Exact solutions of `M ᵀM X N⁻¹ + B⁻¹ X W = right` for a prior that is a product of one between and one within patches.

    In the coordinates `X = L Y Sᵀ` with `L Lᵀ = B` and `S Sᵀ = N`, both sides are diagonal in the singular vectors of `M L` and
    the eigenvectors of `Sᵀ W S`.
    """

    outer: Tensor
    inner: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, matrix: Tensor, noise: Tensor, between: Tensor, within: Tensor) -> "_Separable":
        left, right = torch.linalg.cholesky(between), torch.linalg.cholesky(noise)
        _, values, vectors = torch.linalg.svd(matrix @ left, full_matrices=False)
        curvature, turned = torch.linalg.eigh(right.T @ within @ right)
        sizes = values[:, None] ** 2 + curvature.clamp(min=_TINY)
        return cls(left @ vectors.T, right @ turned, sizes)

    def solved(self, right: Tensor) -> Tensor:
        """`[patches, pixels]` to the same shape."""
        solution: Tensor = self.outer @ ((self.outer.T @ right @ self.inner) / self.sizes) @ self.inner.T
        return solution


@dataclass(frozen=True)
class _ImagePrecision:
    """The inverse covariance of smooth images: a product of channels, rows and columns, so that it costs two thin products."""

    channels: Tensor
    axis: Tensor
    patch_size: int

    @classmethod
    def of(cls, image_size: int, patch_size: int) -> "_ImagePrecision":
        places = torch.arange(image_size, dtype=torch.float64)[:, None]
        along = torch.exp(-torch.cdist(places, places) / CORRELATION_LENGTH)
        return cls(torch.linalg.inv(channel_correlation()), torch.linalg.inv(along), patch_size)

    def __call__(self, patches: Tensor) -> Tensor:
        """`[patches, pixels]` to the same shape."""
        size = len(self.axis)
        image = from_patches(patches.reshape(1, -1, 3, self.patch_size, self.patch_size), size, size)
        weighed = torch.einsum("cd,bdhw->bchw", self.channels, self.axis @ image @ self.axis)
        return to_patches(weighed, self.patch_size).reshape(patches.shape)
