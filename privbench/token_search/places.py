"""What a place in the image asks of its tokens: linear equations that know its position row, whatever the patch shows.

Behind the first attention a token is `z' = W x + b + PE + W_proj o + b_proj`; x is any patch and o lies in the row space of
∂W_proj. Across the span of both, `C z'` is known: `Qᵀ C z' = Qᵀ C (b + PE + b_proj)`. Several images share a place. Ours;
derivation in docs/research/token-search.md.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from privbench.closed_form.activations import Activations
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import centred

__all__ = ["Places"]

_SPANNED = 1e-9
"""Share of the largest singular value below which a direction counts as outside the span of patches and attention."""


@dataclass(frozen=True)
class Places:
    """The places that tokens of a batch can have; patches with the unknown row (MJP) share one.

    Attributes:
        rows: `[places, width]`, bias and position row of a patch there.
        capacity: `[places]` int64, tokens of all images there.
        equations: `[equations, rank]`, of tokens in the basis of the activations.
        known: `[places, equations]`, their right-hand sides.
        free: `[rank, dimensions]`, orthonormal, what the equations leave open; the same at all places.
    """

    rows: Tensor
    capacity: Tensor
    equations: Tensor
    known: Tensor
    free: Tensor

    @classmethod
    def of(cls, embedding: PatchEmbedding, activations: Activations, masked: Tensor, batch: int) -> "Places":
        """Reads the equations off the public embedding and the row spaces of the update.

        Args:
            embedding: Patches to tokens.
            activations: Of the same update.
            masked: `[patches]` bool, the patches with the unknown row.
            batch: Number of images.
        """
        rows, capacity = embedding.positions[~masked], [batch] * int((~masked).sum())
        if masked.any():
            rows = torch.cat([rows, cast(Tensor, embedding.unknown)[None]])
            capacity.append(batch * int(masked.sum()))
        rows = rows + embedding.bias
        moves = centred(embedding.weight.T).T
        mean = torch.ones_like(moves[:, :1])
        left, values, _ = torch.linalg.svd(torch.cat([moves, activations.added, mean], dim=1))
        beyond = left[:, int((values > _SPANNED * values[0]).sum()) :]
        equations = beyond.T @ activations.basis
        # Tokens at one place differ by what the equations cannot see; no more directions are seen than there are places.
        seen = min(len(equations), len(rows) + 1)
        free = torch.linalg.svd(equations)[2][seen:].T
        known = centred(rows + activations.bias) @ beyond
        return cls(rows, torch.tensor(capacity, device=rows.device), equations, known, free)

    def misfits(self, directions: Tensor) -> Tensor:
        """How far tokens of unknown length miss the equations of each place, relative to what these see of them.

        Args:
            directions: `[directions, rank]` of length one.

        Returns:
            `[directions, places]`, sines of angles; 2 where the angle is blunt.
        """
        seen = torch.nn.functional.normalize(directions @ self.equations.T, dim=1)
        known = torch.nn.functional.normalize(self.known, dim=1)
        along = seen @ known.T
        # The sine by the difference of unit vectors: one minus a square would lose half of the digits.
        across = (seen[:, None] - along[..., None] * known).norm(dim=2)
        return torch.where(along > 0, across, torch.full_like(across, 2.0))

    def lengths(self, directions: Tensor, places: Tensor) -> Tensor:
        """Tokens `[tokens, rank]` of these directions at these places `[tokens]`: the equations fix their length."""
        known, seen = self.known[places], directions @ self.equations.T
        return directions * (known.square().sum(dim=1) / (known * seen).sum(dim=1))[:, None]

    def fixed(self) -> Tensor:
        """`[places, rank]`, the shortest token that obeys the equations of each place."""
        solved: Tensor = torch.linalg.lstsq(self.equations, self.known.T, driver="gelsd").solution
        return (solved - self.free @ (self.free.T @ solved)).T
