"""The tokens of an image whose patches have no position: all of them from the gradient, in no order, and their patches.

Starts come from the moments of the LayerNorms behind the first attention, whose common eigenvectors the tokens are; the first
MLP's activations polish and test each, and what is found is projected out for the next. The attention, which sees a
patch as often as it occurs, then tells how often. Ours; derivation in attacks/README.md.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import permutations
from typing import Any, cast

import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from privbench.closed_form.activations import Activations, Settling
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.moments import later_moments
from privbench.closed_form.smoothness import smooth_precision
from privbench.core import Observation, UserError
from privbench.models import Victim

__all__ = [
    "FITS",
    "MEMBER",
    "PLAUSIBLE",
    "SAME",
    "WithoutPositions",
    "different_tokens",
    "distinct",
    "require_without_positions",
    "tokens_of_moments",
    "whole_numbers",
    "without_positions",
]

PLAUSIBLE = 0.1
"""A recovered patch may leave [0, 1] by this much before it is given up."""
MEMBER = 2e-3
"""Share of the activations that a token's direction may leave unexplained; measured at tokens: at most 2.4e-4."""
FITS = 1.5e-2
"""Share of the equations of its token a direction may leave unexplained; measured: at most 2.1e-4, other tokens 0.18."""
SAME = 1e-2
"""Distance of directions of length one below which two are one token found twice."""
_NO_SOLUTION: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
_ABOVE = 4.0
"""Singular values this many times the first one that is rounding count as tokens."""


@dataclass(frozen=True)
class WithoutPositions:
    """Patches without an order.

    Attributes:
        patches: `[patches, pixels]`, normalised; each as often as it seems to occur, the mean of all where one is missing.
        found: Different patches found.
        missing: Places without a patch.
        settled: Whether all were found: all patches, solved together, agree with their tokens.
        residual: How far the patches found miss their equations at most; 1 where there are none.
        rank: Tokens that are told from rounding.
    """

    patches: Tensor
    found: int
    missing: int
    settled: bool
    residual: float
    rank: int


def require_without_positions(observation: Observation, model: Victim, attack: str) -> None:
    """Checks what is needed to find all tokens without positions.

    Raises:
        UserError: More than one image, another first block, or fewer equations than unknowns.
    """
    if observation.batch_size > 1:
        raise UserError(
            f"attack {attack} takes one image per update, given {observation.batch_size}, because nothing tells whose "
            "a patch is; choose --batch-size 1 or --attack gradvit"
        )
    embedding = PatchEmbedding.of(model)
    rank, (width, pixels) = embedding.token_count, embedding.weight.shape
    if width - 1 < pixels + rank + 1:
        raise UserError(
            f"attack {attack} without positions needs more equations than a token has unknowns, given {width - 1} (width "
            f"{width}) for {pixels + rank + 1} in {observation.model.name}; choose --attack gradvit"
        )
    if not _attends_alone(model) or Activations.of(model, observation, rank) is None:
        raise UserError(
            f"attack {attack} without positions needs a first block of LayerNorm, attention without positions of its own, and "
            f"an MLP without gates, which {observation.model.name} does not have; choose --attack gradvit"
        )


def _attends_alone(model: Victim) -> bool:
    """Whether the first attention sees tokens and nothing else: neither rotary nor relative positions, no talking heads."""
    network = cast(Any, model.network)
    attention = getattr(network.blocks[0], "attn", None)
    # timm's plain one by that name; BEiT's has the name too, and no norms of queries and keys.
    plain = type(attention).__name__ == "Attention" and hasattr(attention, "q_norm") and not hasattr(attention, "rel_pos")
    return plain and getattr(network, "rope", None) is None


def without_positions(model: Victim, observation: Observation, rounds: int, generator: torch.Generator) -> WithoutPositions:
    """Finds the patches of an image without positions.

    Args:
        model: The simulated client's.
        observation: What the attacker sees.
        rounds: Rounds of random starts at most, one for each patch, after the starts from the moments.
        generator: Draws them.
    """
    embedding = PatchEmbedding.of(model)
    rank = different_tokens(observation, embedding.token_count)
    activations = cast(Activations, Activations.of(model, observation, rank))
    bag = TokenSearch(model, embedding, activations)
    found = tokens_of_moments(activations, bag.moments(observation))
    result = bag.as_result(found)
    for _ in range(rounds if len(found) else 0):
        if result.settled:
            break
        found = bag.with_random_starts(found, generator)
        result = bag.as_result(found)
    return result


def different_tokens(observation: Observation, most: int) -> int:
    """Tokens that the gradients of the first MLP tell from rounding, `most` at most: patches that are alike are one token."""

    def told(layer: str) -> int:
        values = torch.linalg.svdvals(observation.gradients[f"network.blocks.0.mlp.{layer}.weight"].double())
        return int((values[:most] > _ABOVE * values[most]).sum())

    return max(1, min(told("fc1"), told("fc2")))


class TokenSearch:
    """The search for all tokens of one image."""

    def __init__(self, model: Victim, embedding: PatchEmbedding, activations: Activations) -> None:
        self.model, self.embedding, self.activations = model, embedding, activations
        self.exact = deepcopy(model).double()
        self.rank = activations.basis.shape[1]
        self.anywhere = torch.zeros(model.patch_count, dtype=torch.bool, device=embedding.weight.device)

    def moments(self, observation: Observation) -> list[Tensor]:
        """Two or three moments of all tokens."""
        # Without positions patches, bias and prefix tokens are all that a token before the attention is made of.
        before = min(self.rank, self.embedding.weight.shape[1] + 1 + len(self.embedding.prefix))
        return later_moments(self.model, observation, self.activations.basis, before)

    def with_random_starts(self, found: Tensor, generator: torch.Generator) -> Tensor:
        """The same and what one start per patch, drawn from the smooth prior, leads to."""
        embedding = self.embedding
        spread = torch.linalg.cholesky(torch.linalg.inv(smooth_precision(embedding.patch_size)))
        noise = torch.randn(len(self.anywhere), len(spread), generator=generator, dtype=torch.float64)
        patches = embedding.clipped((noise @ spread.T).to(embedding.weight))
        return _with(self.activations, found, self.activations.directions(self.model, embedding.images(patches), self.anywhere))

    def as_result(self, found: Tensor) -> WithoutPositions:
        """Patches from directions, each as often as it occurs, and all solved together where none is missing."""
        embedding, total = self.embedding, len(self.anywhere)
        empty = embedding.weight.new_zeros(total, embedding.weight.shape[1])
        nothing = WithoutPositions(empty, 0, total, False, 1.0, self.rank)
        if not len(found):
            return nothing
        patches, misfit, outputs = self.activations.places(found, embedding.bias, embedding.weight)
        # What is left out are the prefix tokens, and mixtures that rounding lets pass.
        kept = ((misfit < FITS) & (embedding.excess(patches) < PLAUSIBLE)).nonzero().flatten()[:total]
        if not len(kept):
            return nothing
        patches, outputs = patches[kept], outputs[kept]
        counts = whole_numbers(self._counts(patches, outputs), total)
        repeated, missing = patches.repeat_interleave(counts, dim=0), total - int(counts.sum())
        filled = torch.cat([repeated, repeated.mean(dim=0).expand(missing, -1)])
        settled = None if missing else self._settled(filled, found[kept].repeat_interleave(counts, dim=0))
        chosen = filled if settled is None else settled
        return WithoutPositions(chosen, len(kept), missing, settled is not None, float(misfit[kept].max()), self.rank)

    def _counts(self, patches: Tensor, outputs: Tensor) -> Tensor:
        """How often each patch occurs, by the attention: `[patches]`, not yet whole.

        A head puts out `o = Σ m exp(q·k) v / Σ m exp(q·k)` over the different tokens, prefix tokens once: linear in the
        multiplicities m once multiplied by the denominator.
        """
        before = len(self.embedding.prefix)
        network = cast(Any, self.exact.network)
        block, attention = network.blocks[0], network.blocks[0].attn
        tokens = torch.cat([self.embedding.prefix, patches @ self.embedding.weight.T + self.embedding.bias])
        with torch.no_grad():
            query, key, value = attention.qkv(block.norm1(tokens)).unflatten(1, (3, attention.num_heads, -1)).unbind(1)
            query, key = attention.q_norm(query), attention.k_norm(key)
            scores = torch.einsum("phd,khd->hpk", query[before:], key) * attention.scale
        weights = scores.softmax(dim=2)
        mixed = outputs.reshape(len(outputs), attention.num_heads, -1)
        apart = value.permute(1, 2, 0)[:, None] - mixed.permute(1, 0, 2)[..., None]
        system = (weights[:, :, None] * apart).flatten(0, 2)
        once = -system[:, :before].sum(dim=1, keepdim=True)
        small = torch.linalg.qr(torch.cat([system[:, before:], once], dim=1))[1].cpu().numpy()
        return torch.as_tensor(nnls(small[:, :-1], small[:, -1])[0]).to(patches)

    def _settled(self, patches: Tensor, directions: Tensor) -> Tensor | None:
        """All patches, brought to agree with their directions; None where they do not come to agree."""
        embedding, activations = self.embedding, self.activations
        everywhere = torch.ones_like(self.anywhere)
        problem = Settling(embedding.weight, embedding.bias.expand(len(patches), -1), self.anywhere, everywhere, directions)
        settled = activations.settled(self.exact, embedding.pixels, patches, problem)
        if not torch.isfinite(settled).all() or (embedding.excess(settled) > PLAUSIBLE).any():
            return None
        reached = activations.directions(self.model, embedding.images(settled), self.anywhere)
        return settled if ((reached - directions).norm(dim=1) < SAME).all() else None


def tokens_of_moments(activations: Activations, moments: Sequence[Tensor]) -> Tensor:
    """Directions `[found, rank]` of all tokens that moments lead to, until a round over their pairs finds nothing new.

    Args:
        activations: Polish and test a direction.
        moments: `[rank, rank]` each, of the tokens after the first attention; fewer than two lead nowhere.
    """
    found, before = activations.basis.new_zeros(0, activations.basis.shape[1]), -1
    while before < len(found) < found.shape[1]:
        before = len(found)
        for first, second in permutations(moments, 2):
            starts = _signed(activations, _eigenvectors(first, second, found))
            found = _with(activations, found, starts)[: found.shape[1]]
            if not len(found):
                return found  # noise: the first pair leads to half of the tokens and more
    return found


def _with(activations: Activations, found: Tensor, starts: Tensor) -> Tensor:
    """What is found, and what the starts lead to."""
    if not len(starts):
        return found
    reached, missed = activations.polished(starts)
    return distinct(torch.cat([found, reached[missed < MEMBER]]))


def _signed(activations: Activations, directions: Tensor) -> Tensor:
    """An eigenvector has no sign; the one that fits better."""
    directions = nn.functional.normalize(directions, dim=1)
    ahead, behind = (activations.missed(sign * directions) for sign in (1, -1))
    return torch.where((ahead < behind)[:, None], directions, -directions)


def distinct(directions: Tensor) -> Tensor:
    """Without those that repeat an earlier one."""
    apart = torch.cdist(directions, directions) > SAME
    return directions[(apart | ~torch.ones_like(apart).tril(-1)).all(dim=1)]


def whole_numbers(amounts: Tensor, most: int) -> Tensor:
    """Amounts `[amounts]` as whole numbers of one at least and `most` in all; the amounts that are rounded up most give way."""
    counts = amounts.round().clamp(min=1).long()
    while counts.sum() > most:
        excess = torch.where(counts > 1, counts - amounts, torch.full_like(amounts, -torch.inf))
        counts[excess.argmax()] -= 1
    return counts


def _eigenvectors(first: Tensor, second: Tensor, found: Tensor) -> Tensor:
    """Directions `[directions, rank]` of the tokens that two moments have in common, without those found.

    With tokens as columns of T both moments are `T diag(w) Tᵀ`, so that the eigenvectors of one relative to the other are the
    duals of the tokens; those of missing tokens are orthogonal to all that are found. A moment maps a dual to its token.
    """
    if len(found) == len(first):
        return found[:0]
    rest = torch.linalg.svd(found)[2][len(found) :].T if len(found) else torch.eye(len(first)).to(first)
    mine, other = rest.T @ first @ rest, rest.T @ second @ rest
    try:
        values, vectors = torch.linalg.eig(torch.linalg.solve(other, mine))
    except _NO_SOLUTION:
        return found[:0]
    # Rounding makes pairs of complex ones; their real and imaginary parts span what the two have in common.
    duals = torch.cat([vectors.real[:, values.imag >= 0], vectors.imag[:, values.imag > 0]], dim=1)
    directions: Tensor = (first @ rest @ duals).T
    return directions[torch.isfinite(directions).all(dim=1)]
