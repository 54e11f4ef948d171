"""The singular values that a weight's gradient is expected to have, for whoever was sent it without them (NOG).

Of a gradient G = U S Vᵀ the factor U Vᵀ still shows all directions, and S is how much each of them counts. Gradients of other
images, which anybody can draw and put through the model, tell how this weight's gradients count their outputs and inputs on
average. Ours; no paper inverts orthogonalised gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from privbench.closed_form.smoothness import CORRELATION_LENGTH, channel_correlation

__all__ = ["ExpectedSpectrum", "smooth_images"]

_TINY = 1e-30
_RIDGE = 1e-6
"""Of the mean diagonal: the three estimates agree where every example is alike."""


@dataclass(frozen=True)
class ExpectedSpectrum:
    """What examples say of the singular values of a weight's gradient.

    Attributes:
        left: `[rows, rows]`, mean of (G Gᵀ)^½ over the examples.
        right: `[columns, columns]`, mean of (Gᵀ G)^½.
        weights: `[3]`, how much each of the three estimates counts, by least squares over the examples.
    """

    left: Tensor
    right: Tensor
    weights: Tensor

    @classmethod
    def of(cls, examples: Sequence[Tensor], orthogonal: Sequence[Tensor]) -> "ExpectedSpectrum":
        """Learns from gradients of known images.

        Args:
            examples: At least one, `[rows, columns]` each.
            orthogonal: What would be sent of each.
        """
        factors = [torch.linalg.svd(example, full_matrices=False) for example in examples]
        left = torch.stack([(u * s) @ u.T for u, s, _ in factors]).mean(0)
        right = torch.stack([(v.T * s) @ v for _, s, v in factors]).mean(0)
        unweighted = cls(left, right, left.new_zeros(3))
        products, targets = left.new_zeros(3, 3), left.new_zeros(3)
        for example, sent in zip(examples, orthogonal, strict=True):
            # Each example counts alike, however large its gradient.
            size = example.norm().clamp(min=_TINY)
            estimates, wanted = (unweighted._estimates(sent) / size).flatten(1), example.flatten() / size
            products += estimates @ estimates.T
            targets += estimates @ wanted
        ridge = (_RIDGE * products.diagonal().mean()).clamp(min=_TINY) * torch.eye(3).to(products)
        return cls(left, right, torch.linalg.solve(products + ridge, targets))

    def restored(self, orthogonal: Tensor) -> Tensor:
        """The gradient that is expected behind its orthogonal factor, `[rows, columns]`."""
        return torch.einsum("a,aij->ij", self.weights, self._estimates(orthogonal))

    def _estimates(self, orthogonal: Tensor) -> Tensor:
        """`[3, rows, columns]`: each would be exact if `left` and `right` were those of this very gradient."""
        before, after = self._roots
        return torch.stack([self.left @ orthogonal, orthogonal @ self.right, before @ orthogonal @ after])

    @cached_property
    def _roots(self) -> tuple[Tensor, Tensor]:
        return _root(self.left), _root(self.right)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    root: Tensor = ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).to(matrix)
    return root


def smooth_images(number: int, size: int, *, generator: torch.Generator) -> Tensor:
    """Draws images of the Gaussian prior that closed forms use: neighbouring pixels and the channels of one pixel are alike.

    Args:
        number: How many.
        size: Rows and columns.
        generator: Source of the draws, on the CPU.

    Returns:
        `[number, 3, size, size]` in [0, 1], around mid-grey.
    """
    places = torch.arange(size, dtype=torch.float64)[:, None]
    along = torch.linalg.cholesky(torch.exp(-torch.cdist(places, places) / CORRELATION_LENGTH))
    channels = torch.linalg.cholesky(channel_correlation())
    noise = torch.randn(number, 3, size, size, generator=generator, dtype=torch.float64)
    smooth = torch.einsum("cd,ndhw->nchw", channels, along @ noise @ along.T)
    return (0.5 + 0.25 * smooth).clamp(0, 1).float()
