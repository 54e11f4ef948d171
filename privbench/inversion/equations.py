"""The linear system of the closed forms as a soft term: what patches must be, given the gradients of their tokens.

`Σ_p δ_p x_pᵀ = ∂W` holds for the patches x, the gradients δ of their tokens and the gradient of the patch embedding. δ is
observed where a patch has a position row of its own. Where it has none (MJP) the candidate's takes its place, so that masked
patches explain what the others leave.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.inversion.matching import GuidedDistance

__all__ = ["PatchEquations", "whitening"]


@dataclass(frozen=True)
class PatchEquations(GuidedDistance):
    """The relative squared residual of the system, its equations weighted by a matrix (`whitening`).

    Attributes:
        weight: Name of the patch embedding's weight.
        table: Name of the position table, `[1, rows, width]`.
        first_row: The first patch's row.
        patches: From candidates `[batch, 3, height, width]` in [0, 1] and the context to what the embedding is fed,
            `[batch, patches, pixels]`.
        weights: Name of the matrix in the context, `[width, width]`.
    """

    weight: str
    table: str
    first_row: int
    patches: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    weights: str

    def __call__(
        self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]
    ) -> Tensor:
        """Of candidates of one image each."""
        fed = self.patches(images[:, 0], context)
        rows = slice(self.first_row, self.first_row + fed.shape[1])
        # A hidden patch has a row of zeros on both sides: it takes part by the candidate's own gradient.
        exchanged = observed[self.table][0, rows] - candidate[self.table][:, 0, rows]
        target = observed[self.weight].flatten(1)
        missing = candidate[self.weight].flatten(2) + exchanged.transpose(1, 2) @ fed - target
        weights = context[self.weights]
        return (weights @ missing).square().flatten(1).sum(1) / (weights @ target).square().sum()


def whitening(rows: Tensor, floor: float) -> Tensor:
    """The matrix that weighs weak equations of `rowsᵀ X = target` almost as much as strong ones.

    Args:
        rows: `[patches, width]`, the observed gradients of the tokens; zeros where they are hidden.
        floor: Share of the largest singular value below which an equation counts no more than one of that size.

    Returns:
        `[width, width]`, of the dtype of `rows`.
    """
    left, sizes, _ = torch.linalg.svd(rows.T.double(), full_matrices=True)
    padded = torch.nn.functional.pad(sizes, (0, len(left) - len(sizes)))
    weights: Tensor = (left / (padded / sizes[0].clamp(min=torch.finfo(sizes.dtype).tiny) + floor)).T
    return weights.to(rows)
