"""What masked patches add to the others, taken away: by what the first block's MLP says of every token.

Patches that share a position row (MJP) take part in `Δᵤᵀ Xᵤ + Δₘᵀ Xₘ = ∂W` by rows Δₘ that nobody sends. Least squares takes
from each unmasked patch a mixture of the masked ones, `C Ξ`: Ξ `[masked, pixels]` spans them, and what least squares leaves
unexplained shows all but a few of its rows (as many as tokens outnumber the rank). C, the tokens of the masked patches and the
tokens of those few rows are found by Gauss-Newton on the features of the MLP (`mlp_features`), which lie in a known space at
the true tokens alone. Which patches have these tokens, the smoothest image decides. Ours.
"""

import warnings
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from scipy.sparse.linalg import LinearOperator, cg, lsmr
from torch import Tensor
from torch.func import jvp, vjp

from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.mlp_features import MlpFeatures
from privbench.closed_form.variation import Variation
from privbench.core import Progress

__all__ = ["separated"]

_RANK = 1e-5
"""Singular values of what is unexplained below this share of the largest are rounding."""
_STEPS = 60
"""Of Gauss-Newton, at most."""
_INNER = 50
"""Products with the derivative in one."""
_DAMPING = (1.0, 0.7, 0.01)
"""Of Gauss-Newton: at first, by what it is multiplied after a good step, at least. A token's entries are of order one. Fast
descents end where tokens grow without bound, which LayerNorm does not see."""
_STALLED = 0.02
"""Share of the misfit below which the gain of a step ends it, once the damping is small."""
_BELIEVED = 0.05
"""Share of the first misfit up to which the last one is believed."""
_NO_IMAGE = 0.5
"""By how much half of the unmasked patches leave [0, 1] where tokens grew without bound: 4.0 of one photo, 0 of others."""
_ROUNDS = 6
_SMOOTHING = 200
"""Rounds of reweighting, and conjugate gradients in each, for the smoothest image."""
_TOKEN_ERROR = 0.1
"""Of the entries of the tokens that were found."""
_RIDGE = 1e-2
"""Inverse variance of normalised pixels about which nothing else is known."""


@dataclass(frozen=True)
class _Mixture:
    """What is unknown of the tokens.

    Attributes:
        shares: `[own, masked]`, of each unmasked patch, in the coordinates of `span`.
        inside: `[masked, masked]`, the tokens of the masked patches in the same coordinates.
        known: How many rows of the span are known.
        span: `[masked, width]`, orthonormal rows, those that are known first.
        beyond: `[width - masked, width]`, the complement, as far as tokens of patches reach it.
    """

    shares: Tensor
    inside: Tensor
    known: int
    span: Tensor
    beyond: Tensor

    @property
    def variables(self) -> tuple[Tensor, Tensor, Tensor]:
        """The shares, the tokens inside, and by what the unknown rows move in the coordinates of `beyond`: not at all yet."""
        return self.shares, self.inside, self.span.new_zeros(len(self.span) - self.known, len(self.beyond))

    @property
    def sizes(self) -> Tensor:
        """`[open, 1]`: by what a tilt is divided, so that all variables move tokens alike."""
        lengths: Tensor = torch.cat([self.shares, self.inside])[:, self.known :].norm(dim=0)
        return lengths[:, None].clamp(min=1e-12)

    def rounded(self) -> "_Mixture":
        """In float32."""
        tensors = {name: getattr(self, name).float() for name in ("shares", "inside", "span", "beyond")}
        return replace(self, **tensors)

    def turned(self, tilt: Tensor) -> Tensor:
        """The span, its unknown rows tilted."""
        return torch.cat([self.span[: self.known], self.span[self.known :] + (tilt / self.sizes) @ self.beyond])

    def moved(self, step: tuple[Tensor, Tensor, Tensor], length: float) -> "_Mixture":
        """Where a step leads, in an orthonormal span again."""
        shares, inside, tilt = (value + length * change for value, change in zip(self.variables, step, strict=True))
        rows = self.turned(tilt)
        known, others = rows[: self.known], rows[self.known :]
        span = torch.cat([known, torch.linalg.qr((others - others @ known.T @ known).T).Q.T])
        reach = torch.cat([self.span, self.beyond])
        beyond = torch.linalg.svd(reach - reach @ span.T @ span, full_matrices=False).Vh[: len(self.beyond)]
        return replace(
            self,
            shares=shares @ rows @ span.T,
            inside=inside @ rows @ span.T,
            span=span,
            beyond=beyond,
        )


class _Equations:
    """Features of the tokens outside the space that they lie in."""

    def __init__(
        self, embedding: PatchEmbedding, features: MlpFeatures, outside: Tensor, least: Tensor, masked: Tensor
    ) -> None:
        self.features, self.outside = features, outside
        self.free = max(0, embedding.token_count - (len(outside) - outside.shape[1]))
        self.own, self.hidden = torch.where(~masked)[0], torch.where(masked)[0]
        self.rows = torch.where(masked[:, None], cast(Tensor, embedding.unknown), embedding.positions) + embedding.bias
        self.prefix, self.least = embedding.prefix, least
        # Derivatives in single precision cost less, and steps by them are as good.
        self.rough = copy(self)
        self.rough.features = features.rounded()
        self.rough.rows, self.rough.prefix, self.rough.least = self.rows.float(), self.prefix.float(), least.float()

    def tokens(self, shares: Tensor, inside: Tensor, span: Tensor) -> Tensor:
        """All that enter the first block."""
        patches = torch.zeros_like(self.rows).index_copy(0, self.own, self.least - shares @ span)
        return torch.cat([self.prefix, patches.index_copy(0, self.hidden, inside @ span) + self.rows])

    def outlying(self, mixture: _Mixture) -> Tensor:
        """`[tokens, directions]`: what the features have in the directions that the gradient does not show."""
        return self.features(self.tokens(mixture.shares, mixture.inside, mixture.span)) @ self.outside

    def misfit(self, mixture: _Mixture) -> float:
        """Squared, of the features outside the gradient's rows and as many directions as are free."""
        return float(torch.linalg.svdvals(self.outlying(mixture))[self.free :].square().sum())

    def improved(self, mixture: _Mixture, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        """The step of Gauss-Newton, the free directions as they are best now."""
        outlying = self.outlying(mixture)
        directions = torch.linalg.svd(outlying, full_matrices=True).Vh[self.free :].T
        rough, moving, away = self.rough, mixture.rounded(), (self.outside @ directions).float()

        def residual(shares: Tensor, inside: Tensor, tilt: Tensor) -> Tensor:
            features: Tensor = rough.features(rough.tokens(shares, inside, moving.turned(tilt))) @ away
            return features.flatten()

        variables = moving.variables
        value, back = cast(Any, vjp)(residual, *variables)
        sizes = [one.numel() for one in variables]

        def parts(vector: Tensor) -> tuple[Tensor, ...]:
            pieces = torch.split(torch.as_tensor(vector).to(value).flatten(), sizes)
            return tuple(piece.view_as(one) for piece, one in zip(pieces, variables, strict=True))

        def transposed(vector: Tensor) -> Tensor:
            return torch.cat([one.flatten() for one in back(torch.as_tensor(vector).to(value).flatten())])

        operator = LinearOperator(
            (value.numel(), sum(sizes)),
            matvec=lambda vector: jvp(residual, variables, parts(vector))[1].double().numpy(),
            rmatvec=lambda vector: transposed(vector).double().numpy(),
            dtype="float64",
        )
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            # torch loads its forward-mode derivatives by a function that it has deprecated.
            missed = -(outlying @ directions).flatten().numpy()
            found = lsmr(operator, missed, damp=damping**0.5, maxiter=_INNER, atol=1e-3, btol=1e-3)[0]
        shares, inside, tilt = (one.double() for one in parts(found))
        return shares, inside, tilt


def separated(
    embedding: PatchEmbedding,
    features: MlpFeatures,
    outside: Tensor,
    gradients: Tensor,
    target: Tensor,
    start: Tensor,
    progress: Progress,
) -> Tensor | None:
    """The patches of an image without what the masked ones added to them.

    Args:
        embedding: From patches to tokens, with the row that masked patches share.
        features: From tokens to what the gradient shows the space of.
        outside: `[hidden, directions]`, orthonormal: the directions in which features lie by chance alone.
        gradients: Δ `[patches, width]` float64; the rows of masked patches are zero.
        target: ∂W `[width, pixels]` float64, gradient of the patch embedding.
        start: `[patches, pixels]`, normalised: what smoothness made of the equations.
        progress: Is told of every step.

    Returns:
        `[patches, pixels]`, the masked ones filled in by what surrounds them; None where the features are not explained, or by
        tokens that are no patches'.
    """
    masked = ~gradients.any(dim=1)
    own = ~masked
    left, sizes, right = torch.linalg.svd(gradients[own].T, full_matrices=True)
    if not (len(sizes) == int(own.sum()) and sizes[-1] > 0):
        return None
    least = right.T @ (left[:, : len(sizes)].T @ target / sizes[:, None])
    missed = left[:, len(sizes) :].T @ target
    lifted, known = _known_rows(missed, embedding.weight)
    mixture = _start(embedding, least - start[own], start[masked], known)
    equations = _Equations(embedding, features, outside, least @ embedding.weight.T, masked)
    solved = _descend(equations, mixture, progress)
    if solved is None:
        return None
    patches = _lifted(embedding, solved, lifted, least, masked, start)
    return patches if float(embedding.excess(patches[own]).median()) < _NO_IMAGE else None


def _known_rows(missed: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of what the masked patches span, what least squares leaves shows: rows of pixels, and their tokens, orthonormal."""
    left, sizes, rows = torch.linalg.svd(missed @ weight.T, full_matrices=False)
    number = int((sizes > _RANK * sizes[:1]).sum()) if len(sizes) else 0
    return (left[:, :number].T @ missed) / sizes[:number, None], rows[:number]


def _start(embedding: PatchEmbedding, mixed: Tensor, masked: Tensor, known: Tensor) -> _Mixture:
    """The known rows and, in their complement, those in which the first guess of the mixtures is largest."""
    count = len(masked)
    known, weight = known[:count], embedding.weight
    reach = torch.linalg.svd(weight, full_matrices=False)
    reach = reach.U[:, : int((reach.S / reach.S[0] > _RANK).sum())].T
    tokens = mixed @ weight.T
    rest = tokens - tokens @ known.T @ known
    span = torch.cat([known, torch.linalg.svd(rest, full_matrices=False).Vh[: count - len(known)]])
    beyond = torch.linalg.svd(reach - reach @ span.T @ span, full_matrices=False).Vh[: max(0, len(reach) - count)]
    return _Mixture(tokens @ span.T, masked @ weight.T @ span.T, len(known), span, beyond)


def _descend(equations: _Equations, mixture: _Mixture, progress: Progress) -> _Mixture | None:
    """Gauss-Newton until nothing is gained; None where too much of the misfit is left."""
    damping, shrink, least = _DAMPING
    first = misfit = max(equations.misfit(mixture), 1e-300)
    for number in range(_STEPS):
        progress.report(number, _STEPS, "separation", {"misfit": misfit / first})
        step = equations.improved(mixture, damping)
        for length in (1.0, 0.5, 0.25, 0.1):
            moved = mixture.moved(step, length)
            found = equations.misfit(moved)
            if found < misfit:
                break
        else:
            damping *= 10
            if damping > _DAMPING[0]:
                break
            continue
        stalled = damping <= least and misfit - found < _STALLED * misfit
        mixture, misfit, damping = moved, found, max(least, damping * shrink)
        if stalled:
            break
    return mixture if misfit < _BELIEVED * first else None


def _lifted(
    embedding: PatchEmbedding, mixture: _Mixture, lifted: Tensor, least: Tensor, masked: Tensor, start: Tensor
) -> Tensor:
    """From tokens to pixels: the known rows of the span are patches, the others those that leave the image smoothest.

    The tokens that were found count as observed with noise, because an embedding weakens much of what a patch has: asked for
    exactly, small errors of them would be large ones of the patches.
    """
    known = mixture.known
    shares = mixture.shares[:, known:]
    weights = shares.norm(dim=0)[:, None].clamp(min=1e-12)
    base = start.clone()
    base[~masked] = least - mixture.shares[:, :known] @ lifted[:known]
    found = least @ embedding.weight.T - mixture.shares @ mixture.span
    variation = Variation.everywhere(round(len(masked) ** 0.5), embedding.patch_size)
    count = shares.shape[1] * base.shape[1]

    def image(values: Tensor) -> Tensor:
        """What the unknown rows and the filling change."""
        changed = torch.zeros_like(base)
        rows = values[:count].view(-1, base.shape[1]) / weights
        changed[~masked], changed[masked] = -shares @ rows, values[count:].view(-1, base.shape[1])
        return changed

    def slope(patches: Tensor, variation: Variation, tokens: Tensor | float) -> Tensor:
        """Half the quadratic's derivative by the values."""
        away = (patches[~masked] @ embedding.weight.T - tokens) @ embedding.weight / _TOKEN_ERROR**2
        patches = variation.curvature(patches) + _RIDGE * patches
        patches[~masked] += away
        rows = -shares.T @ patches[~masked] / weights
        return torch.cat([rows.flatten(), patches[masked].flatten()])

    values = torch.zeros(count + int(masked.sum()) * base.shape[1], dtype=torch.float64)
    for _ in range(_ROUNDS):
        patches = base + image(values)
        variation = variation.at(patches)

        def curved(vector: object, variation: Variation = variation) -> object:
            return slope(image(torch.as_tensor(vector).flatten()), variation, 0.0).numpy()

        operator = LinearOperator((len(values), len(values)), matvec=curved, dtype="float64")
        downhill = -slope(patches, variation, found)
        values = values + torch.from_numpy(cg(operator, downhill.numpy(), rtol=1e-5, maxiter=_SMOOTHING)[0])
    return base + image(values)
