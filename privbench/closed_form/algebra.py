"""Linear algebra of the closed-form attacks on vision transformers: what a gradient says of the tokens, without iteration.

Everything is solved in float64 from the gradient as sent. In the notation of the module a patch `x` (flattened, normalised
pixels) becomes the token `z = W x + b + PE`, the first block sees `u = γ ∘ C(z)/σ + β` (LayerNorm; `C` subtracts the mean), and
`δ` is the gradient of a token. Derivations: attacks/README.md.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from privbench.core import Observation, UserError
from privbench.core.patches import from_patches
from privbench.models import Victim

__all__ = [
    "CORRELATION_LENGTH",
    "FirstBlock",
    "PatchEmbedding",
    "RowSpace",
    "Tokens",
    "centred",
    "channel_correlation",
    "class_token",
    "grid_correlation",
    "least_squares",
    "off_columns",
    "require_tokens",
    "row_space",
    "smooth_precision",
    "sum_of_shared_row",
    "token_gradients",
]

CORRELATION_LENGTH = 8.0
"""Pixels over which the correlation of an image falls by a factor of e, as closed forms expect it."""
_FLOOR = 0.03
"""Share of the first singular value behind the rank below which directions count as equally free of the signal."""
_NO_SOLUTION: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
_ROUNDS = 4
"""Rounds of the last, almost converged step; it starts from a linear solution."""


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


# Patches


@dataclass(frozen=True)
class PatchEmbedding:
    """From patches to tokens, as the server knows it, in float64.

    Attributes:
        weight: `[width, pixels]`, the convolution as a matrix over normalised pixels, channel by channel.
        bias: `[width]`.
        positions: `[patches, width]`, the position rows of the patches; zeros where the model has none.
        unknown: `[width]`, the row that masked patches share (MJP); None where the model has none.
        patch_size: Side of a patch in pixels.
        image_size: Side of an image in pixels.
        mean: `[3, 1, 1]` of the normalisation.
        std: `[3, 1, 1]` of the normalisation.
    """

    weight: Tensor
    bias: Tensor
    positions: Tensor
    unknown: Tensor | None
    patch_size: int
    image_size: int
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, model: Victim) -> "PatchEmbedding":
        """Reads it off a vision transformer.

        Raises:
            UserError: The model is no vision transformer.
        """
        parts, state = model.parts(), {name: value.detach().double() for name, value in model.named_parameters()}
        weight = state[parts.patch_weight]
        absent = weight.new_zeros(parts.prefix_tokens + model.patch_count, len(weight))
        table = absent if parts.position is None else state[parts.position][0]
        bias = state.get(parts.patch_bias, torch.zeros_like(weight[:, 0, 0, 0]))
        return cls(
            weight=weight.flatten(1),
            bias=bias,
            positions=table[parts.prefix_tokens : parts.prefix_tokens + model.patch_count],
            unknown=table[-1] if model.has_unknown_position else None,
            patch_size=cast(int, model.patch_size),
            image_size=model.image_size,
            mean=model.mean.double(),
            std=model.std.double(),
        )

    def images(self, patches: Tensor) -> Tensor:
        """Normalised patches `[patches, pixels]` as one float32 image `[1, 3, height, width]`, clipped to [0, 1]."""
        return self.pixels(patches).clamp(0, 1).float()

    def pixels(self, patches: Tensor) -> Tensor:
        """The same in float64, not clipped."""
        cut = patches.reshape(1, -1, 3, self.patch_size, self.patch_size)
        return from_patches(cut, self.image_size, self.image_size) * self.std + self.mean

    def clipped(self, patches: Tensor) -> Tensor:
        """Normalised patches `[patches, pixels]`, moved to where all their pixels are in [0, 1]."""
        std, mean = self.std.flatten(1), self.mean.flatten(1)
        pixels = (patches.reshape(len(patches), 3, -1) * std + mean).clamp(0, 1)
        return ((pixels - mean) / std).flatten(1)

    def excess(self, patches: Tensor) -> Tensor:
        """By how much each normalised patch `[patches, pixels]` leaves [0, 1] at most: `[patches]`, 0 where it stays inside."""
        pixels = patches.reshape(len(patches), 3, -1) * self.std.flatten(1) + self.mean.flatten(1)
        return (pixels - pixels.clamp(0, 1)).abs().flatten(1).amax(dim=1)


def require_tokens(observation: Observation, model: Victim, attack: str) -> None:
    """Checks what every closed form needs: a vision transformer, a learned position row for each patch, a batch of one.

    Raises:
        UserError: One of them is missing.
    """
    if model.parts().position is None:
        raise UserError(
            f"attack {attack} needs a learned position embedding, which {observation.model.name} with defense "
            f"{observation.defense_text} does not have; choose --attack gradvit"
        )
    if observation.batch_size > 1:
        raise UserError(
            f"attack {attack} takes one image per update, given {observation.batch_size}, because images share position rows; "
            "choose --batch-size 1 or --attack gradvit"
        )


def token_gradients(model: Victim, observation: Observation) -> Tensor:
    """The gradients δ of the patches' tokens, read off the position table of a batch of one.

    Returns:
        `[patches, width]` float64; rows of patches that use a shared row instead are exactly zero.
    """
    parts = model.parts()
    table = observation.gradients[cast(str, parts.position)][0].double()
    return table[parts.prefix_tokens : parts.prefix_tokens + model.patch_count]


def class_token(model: Victim) -> Tensor:
    """The class token with its position row, `[1, width]` float64: no secret, the same for every image."""
    state = dict(model.named_parameters())
    token: Tensor = state["network.cls_token"][0] + state[cast(str, model.parts().position)][0, :1]
    return token.detach().double()


def sum_of_shared_row(model: Victim, observation: Observation) -> Tensor:
    """`[1, width]` float64: the sum of δ over the patches that share the unknown row (MJP)."""
    return observation.gradients[cast(str, model.parts().position)][0, -1:].double()


def smooth_precision(patch_size: int) -> Tensor:
    """The inverse covariance by which closed forms choose among patches that explain the gradient equally well.

    Unit variance of normalised pixels, correlation `exp(-distance / 8 pixels)` within a channel and 0.9 of that between
    channels: neighbouring pixels resemble each other. It decides only what the equations leave open.

    Returns:
        `[pixels, pixels]` float64, pixels counted channel by channel.
    """
    precision: Tensor = torch.linalg.inv(torch.kron(channel_correlation(), grid_correlation(patch_size)))
    return precision


def channel_correlation() -> Tensor:
    """`[3, 3]`, how pixels at one place resemble each other."""
    return torch.full((3, 3), 0.9, dtype=torch.float64).fill_diagonal_(1)


def grid_correlation(side: int, spacing: float = 1.0) -> Tensor:
    """`[places, places]`, how the points of a square grid resemble each other within a channel.

    Args:
        side: Number of rows and columns.
        spacing: Distance of neighbours in pixels.
    """
    axis = spacing * torch.arange(side, dtype=torch.float64)
    places = torch.cartesian_prod(axis, axis)
    return torch.exp(-torch.cdist(places, places) / CORRELATION_LENGTH)


# The first block


@dataclass(frozen=True)
class FirstBlock:
    """The first block's LayerNorm and the weight that reads it.

    Attributes:
        scale: `[width]`, γ.
        shift: `[width]`, β.
        qkv: `[3 width, width]`, the weight of queries, keys and values.
        qkv_name: Its parameter name.
        output_name: Parameter name of the attention's output projection `[width, width]`.
    """

    scale: Tensor
    shift: Tensor
    qkv: Tensor
    qkv_name: str
    output_name: str

    @classmethod
    def of(cls, model: Victim) -> "FirstBlock":
        """Reads it off a pre-norm vision transformer.

        Raises:
            UserError: Something else than one LayerNorm lies between the tokens and the first attention.
        """
        network = cast(Any, model.network)
        block = network.blocks[0]
        norm, qkv = getattr(block, "norm1", None), getattr(getattr(block, "attn", None), "qkv", None)
        if not (isinstance(norm, nn.LayerNorm) and norm.elementwise_affine and isinstance(qkv, nn.Linear)) or not isinstance(
            network.norm_pre, nn.Identity
        ):
            raise UserError(
                f"{type(network).__name__} does not feed its tokens through one LayerNorm into a joint query-key-value layer; "
                "choose a timm vit_* or deit_* model without pre_norm, or --attack closed-form"
            )
        return cls(
            scale=norm.weight.detach().double(),
            shift=norm.bias.detach().double(),
            qkv=qkv.weight.detach().double(),
            qkv_name="network.blocks.0.attn.qkv.weight",
            output_name="network.blocks.0.attn.proj.weight",
        )

    def centred(self, rows: Tensor) -> Tensor:
        """`γ ∘ C(row)` for each row `[rows, width]`."""
        return self.scale * centred(rows)


def centred(rows: Tensor) -> Tensor:
    """`C(row)`: each row without its mean."""
    without_mean: Tensor = rows - rows.mean(dim=-1, keepdim=True)
    return without_mean


class Tokens:
    """The tokens of one image as far as the row space of the first block's query-key-value gradient fixes them.

    With S the complement of that row space, every token obeys `S [γ∘C(W x + b + PE) + σ β] = 0`, linear in `(x, σ)`. Tokens
    that share a position row leave their differences undetermined: those span `ambiguity`.

    Args:
        embedding: Patches to tokens.
        block: LayerNorm and attention weights.
        gradient: `[3 width, width]`, the observed gradient of `block.qkv`.

        tolerance: Relative residual above which a position does not fit its own row and counts as masked.

    Attributes:
        space: Row and column space of the gradient.
        masked: `[patches]` bool.
        residuals: `[patches]`, how far the best solution misses the equations, relative to the known part of the token.
        patches: `[patches, pixels]`, the minimum-norm solution with every patch's own position row.
        ambiguity: `[pixels, dimensions]`, what may be added to a patch without a change of the equations.
    """

    _CUTOFF = 1e-3
    """Singular values of the equations below this share of the unprojected ones' largest count as zero."""

    def __init__(self, embedding: PatchEmbedding, block: FirstBlock, gradient: Tensor, tolerance: float) -> None:
        self._embedding, self._block = embedding, block
        self.space = row_space(gradient, len(embedding.positions) + 1)
        whole = torch.cat([block.centred(embedding.weight.T), block.shift[None]])
        self._left, values, right = torch.linalg.svd(self.space.complement @ whole.T, full_matrices=True)
        kept = int((values > self._CUTOFF * torch.linalg.matrix_norm(whole, 2)).sum())
        self._values, self._right = values[:kept], right[:kept]
        self.residuals = self._solve(embedding.positions)[1]
        self.masked = self.residuals > tolerance
        # The tokens behind one row differ by so many vectors; rounding lifts some of their singular values over the cutoff.
        kept = min(kept, max(0, len(values) - int(self.masked.sum()) + 1))
        self._values, self._right = values[:kept], right[:kept]
        # Without a shift β the deviation σ is free, which moves no pixel.
        moves, sizes, _ = torch.linalg.svd(right[kept:].T[:-1], full_matrices=False)
        self.patches, self.ambiguity = self._solve(embedding.positions)[0][:, :-1], moves[:, sizes > 1e-8]

    def _solve(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        known = self._block.centred(self._embedding.bias + rows)
        target = -known @ self.space.complement.T
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


def off_columns(gradient: Tensor, rank: int) -> Tensor:
    """`[outputs, outputs]`, rows that weigh each direction by the inverse of the gradient's size in it, at most 1.

    Sizes well below the first one behind `rank`, which is rounding, count as equal.
    """
    left, sizes, _ = torch.linalg.svd(gradient.double())
    sizes = nn.functional.pad(sizes, (0, len(left) - len(sizes)))
    floor = _FLOOR * sizes[rank].clamp(min=torch.finfo(torch.float64).tiny)
    weights: Tensor = left.T * (floor / (sizes + floor))[:, None]
    return weights


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
