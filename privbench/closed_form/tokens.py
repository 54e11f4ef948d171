"""The tokens of one image as far as the row space of the first block's query-key-value gradient fixes them.

Derivations: docs/research. The notation is that of `embedding`.
"""

from typing import cast

import torch
from torch import Tensor, nn

from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import FirstBlock, centred
from privbench.closed_form.row_space import RowSpace, least_squares, off_columns

__all__ = ["Tokens"]

_NO_SOLUTION: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
_ROUNDS = 4
"""Rounds of the last, almost converged step; it starts from a linear solution."""


class Tokens:
    """The tokens of one image as far as the row space of the first block's query-key-value gradient fixes them.

    With S the complement of that row space, every token obeys `S [γ∘C(W x + b + PE) + σ β] = 0`, linear in `(x, σ)`. Tokens
    that share a position row leave their differences undetermined: those span `ambiguity`.

    Args:
        embedding: Patches to tokens.
        block: LayerNorm and attention weights.
        space: From `FirstBlock.token_space`.
        tolerance: Relative residual above which a position does not fit its own row and counts as masked.

    Attributes:
        space: Row and column space of the gradient.
        masked: `[patches]` bool.
        residuals: `[patches]`, how far the best solution misses the equations, relative to the known part of the token.
        patches: `[patches, pixels]`, the minimum-norm solution with every patch's own position row.
        ambiguity: `[pixels, dimensions]`, what may be added to a patch without a change of the equations.
    """

    _CUTOFF = 1e-3
    """Singular values of the equations below this share of the unprojected ones' largest are zero, unless `_weak` has them."""
    _FLOOR, _CLEAR = 1e-5, 10.0
    """Below the first share a singular value is zero whatever tokens say; a weak one shows so often above the misfit."""

    def __init__(self, embedding: PatchEmbedding, block: FirstBlock, space: RowSpace, tolerance: float) -> None:
        self._embedding, self._block = embedding, block
        self.space = space
        whole = torch.cat([block.centred(embedding.weight.T), block.shift[None]])
        self._left, values, right = torch.linalg.svd(self.space.complement @ whole.T, full_matrices=True)
        kept = int((values > self._CUTOFF * torch.linalg.matrix_norm(whole, 2)).sum())
        self._values, self._right = values[:kept], right[:kept]
        fit = self._solve(embedding.positions)[1] <= tolerance
        kept += self._weak(values[kept:] / torch.linalg.matrix_norm(whole, 2), kept, embedding.positions[fit])
        self._values, self._right = values[:kept], right[:kept]
        self.residuals = self._solve(embedding.positions)[1]
        self.masked = self.residuals > tolerance
        # The tokens behind one row differ by so many vectors; rounding lifts some of their singular values over the cutoff.
        kept = min(kept, max(0, len(values) - int(self.masked.sum()) + 1))
        self._values, self._right = values[:kept], right[:kept]
        # Without a shift β the deviation σ is free, which moves no pixel.
        moves, sizes, _ = torch.linalg.svd(right[kept:].T[:-1], full_matrices=False)
        self.patches, self.ambiguity = self._solve(embedding.positions)[0][:, :-1], moves[:, sizes > 1e-8]

    def _weak(self, shares: Tensor, kept: int, rows: Tensor) -> int:
        """How many of the next singular values are of equations all the same.

        Tokens that share a row leave singular values of zero behind, and in their directions tokens that fit miss the equations
        by no more than in others. In the direction of an equation they miss them by far more as long as it is left out.
        """
        missed = (self._target(rows) @ self._left).square().mean(0) if len(rows) else torch.zeros(len(self._left))
        for number, share in enumerate(shares.tolist()):
            place = kept + number
            if share < self._FLOOR or missed[place] <= self._CLEAR**2 * missed[place + 1 :].mean():
                return number
        return len(shares)

    def _target(self, rows: Tensor) -> Tensor:
        known = self._block.centred(self._embedding.bias + rows)
        return -known @ self.space.complement.T

    def _solve(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        known = self._block.centred(self._embedding.bias + rows)
        target = self._target(rows)
        seen = target @ self._left[:, : len(self._values)]
        solution = (seen / self._values) @ self._right
        missed = (target.square().sum(1) - seen.square().sum(1)).clamp(min=0).sqrt()
        return solution, missed / known.norm(dim=1)

    def likely(self, patches: Tensor, precision: Tensor) -> Tensor:
        """Moves patches within the ambiguity to where `precision` finds them most likely; `[patches, pixels]`."""
        free = self.ambiguity
        normal = free.T @ precision @ free
        moved: Tensor = patches - (free @ torch.linalg.solve(normal, free.T @ precision @ patches.T)).T
        return moved

    def shared_row_patch(self, precision: Tensor) -> Tensor:
        """`[1, pixels]`: the most likely patch with the unknown row; the equations are the same for all that share it."""
        solution, _ = self._solve(cast(Tensor, self._embedding.unknown)[None])
        return self.likely(solution[:, :-1], precision)

    def shared_row_patches(
        self, basis: Tensor, moments: tuple[Tensor, Tensor], others: Tensor, common: Tensor
    ) -> Tensor | None:
        """Tells the patches that share the unknown row apart by the moments of both LayerNorms.

        The known tokens are projected out of both moments. What is left are sums `Σ w t tᵀ` and `Σ w' t tᵀ` over the same few
        tokens `t = (1, c)` with different weights: the eigenvectors of one relative to the other are the tokens.

        Args:
            basis: `[width, rank]`, of the tokens' span.
            moments: Both in its coordinates, `[rank, rank]` each.
            others: `[tokens, width]`, all other tokens, the class token included.
            common: `[1, pixels]`, from `shared_row_patch`.

        Returns:
            `[patches, pixels]`, in no particular order; None where tokens are not independent (equal patches, or more of them
            than a patch has pixels).
        """
        embedding, free = self._embedding, self.ambiguity
        known = nn.functional.normalize(centred(others) @ basis, dim=1)
        rest = torch.linalg.svd(known)[2][len(known) :].T
        if rest.shape[1] != free.shape[1] + 1:
            return None
        shared = embedding.bias + cast(Tensor, embedding.unknown)
        frame = torch.cat([centred(common @ embedding.weight.T + shared), centred((embedding.weight @ free).T)])
        try:
            inverse = torch.linalg.inv(frame @ basis @ rest)
            first, second = (inverse.T @ rest.T @ moment @ rest @ inverse for moment in moments)
            places = torch.linalg.inv(torch.linalg.eig(torch.linalg.solve(first, second)).eigenvectors).real
        except _NO_SOLUTION:
            return None
        patches: Tensor = common + places[:, 1:] / places[:, :1] @ free.T
        return patches if torch.isfinite(patches).all() else None

    def with_token_gradients(self, gradients: Tensor, output_gradient: Tensor, precision: Tensor) -> Tensor:
        """Chooses within the ambiguity by what the token gradients δ add.

        A token's gradient is `δ = C(γ∘W_qkvᵀ g) - s C(W x + b + PE) + ε`: through the LayerNorm, whose reader's gradient `g`
        lies in the column space of the query-key-value gradient, and past it, where `ε` lies in the column space of the output
        projection's gradient. With `x` known up to the ambiguity, only a number `s` and the place within it remain.

        Args:
            gradients: `[patches, width]`, δ; patches whose row is zero (masked ones) are left as `likely` has them.
            output_gradient: `[width, width]`, gradient of the attention's output projection.
            precision: `[pixels, pixels]`, decides where the equations are weak.

        Returns:
            `[patches, pixels]`.
        """
        start, free = self.likely(self.patches, precision), self.ambiguity
        weights = off_columns(output_gradient, self.space.rank)
        reader = centred(self._block.scale * (self._block.qkv.T @ self.space.columns).T)
        through, _ = torch.linalg.qr(weights @ reader.T)

        def seen(columns: Tensor) -> Tensor:
            weighted: Tensor = weights @ columns
            return weighted.sub(through @ (through.T @ weighted))

        embedding = self._embedding
        moves = seen(-centred((embedding.weight @ free).T).T)
        tokens = seen(-centred(start @ embedding.weight.T + embedding.bias + embedding.positions).T)
        given = seen(gradients.T)
        prior, equations = free.T @ precision @ free, len(given) - 2 * self.space.rank
        chosen = start.clone()
        for patch in gradients.any(dim=1).nonzero().flatten().tolist():
            chosen[patch] += free @ _place(given[:, patch], tokens[:, patch], moves, prior, equations)
        return chosen


def _place(given: Tensor, token: Tensor, moves: Tensor, precision: Tensor, equations: int) -> Tensor:
    """The place `c` in `given = s (token + moves c)` under the prior `precision` on `c`; `s` is unknown.

    Linear least squares in `(s, s c)`, whose misfit is the variance of the equations, then a few rounds of `s` and `c` in turn.
    Zero where that is not finite.
    """
    unknowns = torch.cat([token[:, None], moves], dim=1)
    sizes = unknowns.norm(dim=0)
    scaled = least_squares(unknowns / sizes, given[:, None], cutoff=1e-12)[:, 0]
    variance = (unknowns / sizes @ scaled - given).square().sum() / max(1, equations - unknowns.shape[1])
    solution = scaled / sizes
    place = solution[1:] / solution[0]
    for _ in range(_ROUNDS):
        whole = token + moves @ place
        factor = (whole @ given) / (whole @ whole)
        normal = factor**2 * moves.T @ moves + variance * precision
        place = torch.linalg.solve(normal, moves.T @ (factor * given - factor**2 * token))
    finite: Tensor = place.nan_to_num(0.0, 0.0, 0.0)
    return finite
