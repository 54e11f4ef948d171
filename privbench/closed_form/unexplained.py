"""How noisy the closed form's equations are, read off what no solution explains.

`Δᵀ X = ∂W` has an equation for each coordinate of a token. With fewer patches than coordinates some equations are spare. One is
always spare in a model that reads its tokens through LayerNorms alone: a token's gradient has no component along the vector
of ones, so that what both sides have there is noise, or rounding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.closed_form.smoothness import smooth_covariance

__all__ = ["Unexplained"]

_ROUNDING = 1e-7
"""Of float32: no noise is taken to be smaller, relative to the right-hand side."""
_TINY = 1e-30
_RANK = 1e-10
"""Singular values below this share of the largest are zero in float64."""
_SLACK = 1e-6
"""Of the variance that hidden patches cause on average, what is left where they cause none; in a prototype
1e-4 and 1e-6 did alike."""
_CENTRED = 0.01
"""Energy along the vector of ones, relative to that of any direction, below which it is there by noise alone."""


@dataclass(frozen=True)
class Unexplained:
    """The equations, and what no solution explains.

    Attributes:
        matrix: Δᵀ `[width, patches]`, without what is noise alone.
        target: ∂W `[width, pixels]`, the same.
        missed: `[width, pixels]`, the residual of least squares.
        spare: Equations beyond the patches that are not hidden.
        hidden: Patches that are.
        size: Variance of an equation's noise.
        floor: Variance below which it is rounding.
    """

    matrix: Tensor
    target: Tensor
    missed: Tensor
    spare: int
    hidden: int
    size: Tensor
    floor: Tensor

    @classmethod
    def of(cls, gradients: Tensor, target: Tensor) -> "Unexplained":
        """Reads it off equations in float64.

        Args:
            gradients: Δ `[patches, width]`; the rows of hidden patches are zero.
            target: ∂W `[width, pixels]`.
        """
        matrix, right = gradients.T.cpu(), target.cpu()
        width, pixels = right.shape
        ones = torch.full((width, 1), width**-0.5, dtype=torch.float64)
        along = (ones.T @ matrix).square().sum()
        known = int(matrix.any(dim=0).sum())
        missed, spare, variance = torch.zeros_like(right), 0, right.new_zeros(())
        centred = bool(along * width < _CENTRED * matrix.square().sum())
        if centred:
            missed, spare = ones @ (ones.T @ right), 1
            # Pixels are normalised: what noise in Δ adds to an equation has about its own variance.
            variance = along * pixels
            matrix, right = matrix - ones @ (ones.T @ matrix), right - missed
        left, sizes, _ = torch.linalg.svd(matrix, full_matrices=False)
        basis = left[:, sizes > _RANK * sizes[:1]]
        missed = missed + right - basis @ (basis.T @ right)
        spare += max(0, width - spare - known)
        floor = (_ROUNDING**2 * right.square().mean()).clamp(min=_TINY)
        size = (missed.square().sum() + variance) / (max(1, spare) * pixels) + floor
        return cls(matrix, right, missed, spare, int((~gradients.any(dim=1)).sum()), size, floor)

    def noise(self, patch_size: int) -> Tensor:
        """`[pixels, pixels]`, covariance of an equation's noise.

        The prior's own covariance fills the directions that too few spare equations leave open: most of the noise is that of
        the matrix times the patches, which is as smooth as they are.
        """
        within = smooth_covariance(patch_size)
        share = max(1, len(within) - self.spare)
        covariance: Tensor = (self.missed.T @ self.missed + share * self.size * within) / (self.spare + share)
        return covariance + self.floor * torch.eye(len(within), dtype=torch.float64)

    def hidden_noise(self, patch_size: int) -> Tensor:
        """The same of hidden patches alone: they leave no more directions open than spare equations lack to their number."""
        within = smooth_covariance(patch_size)
        open_share = max(0, self.hidden - self.spare) / max(1, self.hidden)
        covariance: Tensor = self.missed.T @ self.missed / max(1, self.spare) + open_share * self.size * within
        return covariance + (self.floor + _SLACK * self.size) * torch.eye(len(within), dtype=torch.float64)
