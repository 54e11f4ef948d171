"""Weighted second moments of all tokens, `Σ w t tᵀ`, which a gradient gives away at every LayerNorm that they pass.

A token's gradient crosses a LayerNorm as `δ = C(γ∘Wᵀg)/σ - w t + ε`: what its reader passes back, a share of the token itself,
and what goes past. Summed against the tokens, all but the moment is known or lies in a known span. Ours; derivation in
attacks/README.md.
"""

from dataclasses import dataclass
from itertools import islice, pairwise, takewhile
from typing import Any, cast

import torch
from torch import Tensor

from privbench.closed_form.first_block import centred
from privbench.closed_form.plain_update import Update, scaling_of
from privbench.closed_form.row_space import least_squares, off_columns
from privbench.core import Observation
from privbench.models import Victim

__all__ = ["Crossings", "Moments", "first_crossings", "later_moments"]

_NO_SOLUTION: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
_LATER = 3
"""Moments behind the first attention that are read; each is less exact than the one before it."""


@dataclass(frozen=True)
class _Norm:
    """One LayerNorm by the names around it.

    Attributes:
        block: Which block, from 0.
        name: The LayerNorm.
        reader: The linear layer that reads it.
        past: The linear layer whose output is added to the tokens; the columns of its gradient span ε.
    """

    block: int
    name: str
    reader: str
    past: str

    def of(self, name: str) -> str:
        """The full name of a parameter of the block."""
        return f"network.blocks.{self.block}.{name}"


def _norms(block: int) -> tuple[_Norm, _Norm]:
    return _Norm(block, "norm1", "attn.qkv", "attn.proj"), _Norm(block, "norm2", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Moments:
    """Two moments of the tokens `t = C z` before the first attention, from the two LayerNorms of the first block.

    Attributes:
        basis: `[width, rank]`, orthonormal basis of the tokens' span, in whose coordinates the moments stand.
        first: `[rank, rank]`, `Σ w t tᵀ` over all tokens, `w` from the first LayerNorm.
        second: `[rank, rank]`, `Σ w' t tᵀ` over the same tokens, `w'` from the second.
    """

    basis: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, model: Victim, observation: Observation, rank: int) -> "Moments | None":
        """Reads them off the gradients of embedding and first block; None where the block is built otherwise.

        Args:
            model: A vision transformer.
            observation: What the attacker sees.
            rank: Number of tokens, which are linearly independent.
        """
        if not _applies(model, 0):
            return None
        update, (one, two) = Update.of(model, observation), _norms(0)
        try:
            first, basis, past = _moment(_crossing(model, update), one, update, rank, rank)
            later = past + update.added(one.of(one.past))
            second, basis_later, _ = _moment(later, two, update, rank, rank)
            # Both crossings hold the same gradients; what maps one to the other maps tokens to those after the attention.
            back = torch.linalg.inv(least_squares(past @ basis, later @ basis_later, cutoff=1e-12))
        except (KeyError, _NO_SOLUTION):
            return None
        return cls(basis, first, back.T @ second @ back)


@dataclass(frozen=True)
class Crossings:
    """Sums over all tokens of gradient times centred token around the first attention, `[width, width]` each.

    Attributes:
        embedded: `Σ δ tᵀ`, δ the gradient of a token before the attention.
        past: `Σ ε tᵀ`, ε its gradient behind the attention.
        later: `Σ ε t'ᵀ`, t' the token there.
    """

    embedded: Tensor
    past: Tensor
    later: Tensor


def first_crossings(model: Victim, observation: Observation, before: int, rank: int) -> Crossings:
    """Reads them off the gradients of embedding and first block.

    Args:
        model: A vision transformer whose blocks add what attention and MLP put out.
        observation: What the attacker sees.
        before: Dimensions of the tokens before the attention.
        rank: Number of tokens behind it, which are linearly independent.
    """
    update, norm = Update.of(model, observation), _norms(0)[0]
    embedded = _crossing(model, update)
    past = _moment(embedded, norm, update, before, rank)[2]
    return Crossings(embedded, past, past + update.added(norm.of(norm.past)))


def later_moments(model: Victim, observation: Observation, basis: Tensor, before: int) -> list[Tensor]:
    """Moments of the tokens after the first attention, from the LayerNorms behind it.

    Every block adds to its tokens what depends on them linearly once all are known to be independent, so that all moments can
    be carried back to the same tokens.

    Args:
        model: A vision transformer.
        observation: What the attacker sees.
        basis: `[width, rank]`, orthonormal basis of the centred tokens after the first attention.
        before: Dimensions of the tokens before it; less than the rank where they have no position.

    Returns:
        `[rank, rank]` each, in the coordinates of the basis; fewer or none where blocks are built otherwise.
    """
    depth, rank = len(cast(Any, model.network).blocks), basis.shape[1]
    norms = [norm for block in takewhile(lambda block: _applies(model, block), range(depth)) for norm in _norms(block)]
    update, found = Update.of(model, observation), list[Tensor]()
    try:
        past = _moment(_crossing(model, update), norms[0], update, before, rank)[2]
        earlier, inside, back = past, basis, torch.eye(rank).to(basis)
        # In the last block all tokens but one have no gradient behind the attention.
        for added, norm in islice(pairwise(norms[: 2 * depth - 2]), _LATER):
            later = past + update.added(added.of(added.past))
            moment, own, past = _moment(later, norm, update, rank, rank)
            # Both crossings hold the same gradients; what maps one to the other maps the tokens of one to those of the other.
            back = own.T @ basis if not found else least_squares(later @ own, earlier @ inside, cutoff=1e-12) @ back
            found.append(back.T @ moment @ back)
            earlier, inside = past, own
    except (IndexError, KeyError, _NO_SOLUTION):
        pass
    return found


def _applies(model: Victim, block: int) -> bool:
    """Whether a block adds the outputs of attention and MLP, scaled by a vector at most."""
    return all(scaling_of(cast(Any, model.network).blocks[block], name) is not None for name in ("ls1", "ls2"))


def _crossing(model: Victim, update: Update) -> Tensor:
    """`Σ δ tᵀ` over all tokens `[width, width]`: each summand of a token has its own gradient, and their products add up."""
    parts, given, values = model.parts(), update.given, update.values
    total = given[parts.patch_weight].flatten(1) @ values[parts.patch_weight].flatten(1).T
    for name in (parts.patch_bias, parts.position, *parts.prefix_names):
        if name is not None and name in values:
            rows = (table[name].reshape(-1, len(total)) for table in (given, values))
            total = total + next(rows).T @ next(rows)
    return centred(total)


def _moment(crossing: Tensor, norm: _Norm, update: Update, rank: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """One LayerNorm: `Σ δ tᵀ` minus what went through the reader is `Σ (ε - w t) tᵀ`, and ε has a known span.

    Args:
        crossing: `[width, width]`, `Σ δ tᵀ`, δ the gradient of the tokens before the norm.
        norm: The LayerNorm.
        update: Parameters and gradients.
        rank: Dimensions of the tokens.
        outputs: Dimensions of ε.

    Returns:
        `Σ w t tᵀ` in the basis of the tokens, that basis, and `Σ ε tᵀ`.
    """
    values, given, reader = update.values, update.given, norm.of(norm.reader)
    scale, shift = values[norm.of(f"{norm.name}.weight")], values[norm.of(f"{norm.name}.bias")]
    seen = (given[f"{reader}.weight"] - torch.outer(given[f"{reader}.bias"], shift)) / scale
    through = (scale[:, None] * (values[f"{reader}.weight"].T @ seen)).T
    remaining = crossing - centred(through).T
    basis = torch.linalg.svd(seen)[2][:rank].T
    weights = off_columns(given[norm.of(f"{norm.past}.weight")], outputs)
    moment = -least_squares(weights @ basis, weights @ remaining @ basis, cutoff=1e-15)
    moment = (moment + moment.T) / 2
    return moment, basis, remaining + basis @ moment @ basis.T
