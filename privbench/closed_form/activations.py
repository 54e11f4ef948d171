"""Tokens one by one from the first block's MLP: which vectors of the row space have activations that lie in a row space, too.

The rows of ∂W_fc1 span the tokens after the attention, those of ∂W_fc2 their activations `φ(W u + b)`. The activation is not
linear, so of all mixtures of tokens only the tokens themselves pass both. Neither label, position nor order is used, and each
token is found by itself. Ours; DAGER (Petrov et al., NeurIPS 2024) tests text tokens of a vocabulary in a like way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import grad

from privbench.closed_form.first_block import centred
from privbench.closed_form.plain_update import Update, scaling_of
from privbench.closed_form.row_space import least_squares
from privbench.core import Observation
from privbench.models import Victim

__all__ = ["Activations", "Settling"]

_BLOCK = "network.blocks.0."
_CUTOFF = 1e-12
_STEPS = 12
"""Levenberg-Marquardt steps from each start."""
_STALLED = 1e-4
"""Share of the squared error below which a step's gain ends the search from a start."""
_ROUNDS = 25
"""Rounds of the fixed point between patches and attention."""
_MEMORY = 12
"""Rounds that Anderson's mixture remembers; the plain iteration diverges slowly along a few directions."""


@dataclass(frozen=True)
class Settling:
    """What `Activations.settled` is given of the patches.

    Attributes:
        weight: `[width, pixels]`, of the patch embedding.
        rows: `[patches, width]`, bias and position row of each patch.
        masked: `[patches]` bool, those with the unknown row.
        moving: `[patches]` bool, those to be solved; the others stay.
        directions: `[patches, rank]`, of the tokens after the attention.
    """

    weight: Tensor
    rows: Tensor
    masked: Tensor
    moving: Tensor
    directions: Tensor


@dataclass(frozen=True)
class Activations:
    """The first block's MLP as a test of directions `v`: `φ(√width M v + k)` lies in a known space where `v` is a token's.

    Attributes:
        basis: `[width, rank]`, orthonormal basis of the centred tokens after the attention, in which directions stand.
        reader: `[hidden, rank]`, `√width W_fc1 (γ∘basis)`.
        offset: `[hidden]`, `W_fc1 β + b_fc1`.
        activation: φ, elementwise.
        space: `[hidden, rank]`, orthonormal basis of the activations of all tokens.
        outputs: `[width, rank]`, orthonormal basis of what the heads of the attention put out, before its projection.
        added: `[width, rank]`, the same behind the projection, without its bias, centred.
        bias: `[width]`, that bias.
    """

    basis: Tensor
    reader: Tensor
    offset: Tensor
    activation: Callable[[Tensor], Tensor]
    space: Tensor
    outputs: Tensor
    added: Tensor
    bias: Tensor

    @classmethod
    def of(cls, model: Victim, observation: Observation, rank: int) -> "Activations | None":
        """Reads it off the gradients of the first block; None where the block is built otherwise.

        Args:
            model: A vision transformer.
            observation: What the attacker sees.
            rank: Number of tokens, which are linearly independent.
        """
        block = cast(Any, model.network).blocks[0]
        plain = all(scaling_of(block, name) is not None for name in ("ls1", "ls2"))
        update = Update.of(model, observation)
        values, given = (
            {name.removeprefix(_BLOCK): value for name, value in table.items() if name.startswith(_BLOCK)}
            for table in (update.values, update.given)
        )
        needed = {f"{name}.{kind}" for name in ("norm2", "attn.proj", "mlp.fc1") for kind in ("weight", "bias")}
        if not plain or not needed <= values.keys() or "mlp.fc2.weight" not in values:
            return None
        scale, shift, first = values["norm2.weight"], values["norm2.bias"], values["mlp.fc1.weight"]
        hidden, width = first.shape
        if values["mlp.fc2.weight"].shape[1] != hidden or rank >= width:
            return None  # a gated MLP, or as many tokens as the space has dimensions
        seen = (given["mlp.fc1.weight"] - torch.outer(given["mlp.fc1.bias"], shift)) / scale
        basis, space, outputs = (_rows(rows, rank) for rows in (seen, given["mlp.fc2.weight"], given["attn.proj.weight"]))
        added = values["attn.proj.weight"] @ outputs
        return cls(
            basis=basis,
            reader=first @ (scale[:, None] * basis) * width**0.5,
            offset=first @ shift + values["mlp.fc1.bias"],
            activation=block.mlp.act,
            space=space,
            outputs=outputs,
            added=added - added.mean(dim=0),
            bias=values["attn.proj.bias"],
        )

    def directions(self, model: Victim, images: Tensor, masked: Tensor) -> Tensor:
        """The directions of the patches' tokens of candidates, to start from: `[patches, rank]`.

        Args:
            model: The one that this was read off.
            images: `[1, 3, height, width]`.
            masked: `[patches]` bool, those with the unknown row.
        """
        return nn.functional.normalize(centred(_around_attention(model, images, masked)[1]) @ self.basis, dim=1)

    def settled(self, model: Victim, pixels: Callable[[Tensor], Tensor], patches: Tensor, problem: "Settling") -> Tensor:
        """Patches whose tokens after the attention have the given directions, all together.

        What the attention adds to a token is computed from all patches as they stand; with it each patch solves a linear
        system of its own; and so on, a fixed point.

        Args:
            model: The one that this was read off, in float64.
            pixels: From normalised patches to an image `[1, 3, height, width]`.
            patches: `[patches, pixels]` to start from.
            problem: Which patches move, and to what.

        Returns:
            `[patches, pixels]`.
        """
        moving = problem.moving
        moves = centred(problem.weight.T).T.expand(int(moving.sum()), -1, -1)
        unknowns = torch.cat([moves, -(problem.directions[moving] @ self.basis.T)[..., None]], dim=2)
        inverse = torch.linalg.pinv(unknowns)
        current = patches.clone()
        points, steps = [], []
        for _ in range(_ROUNDS):
            before, after = _around_attention(model, pixels(current), problem.masked)
            known = centred(problem.rows + after - before)[moving]
            reached = -(inverse @ known[..., None])[:, :-1, 0]
            points.append(reached.flatten())
            steps.append((reached - current[moving]).flatten())
            current[moving] = _mixed(points, steps).view_as(reached)
        return current

    def polished(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Moves directions to where their activations lie in the space, by Levenberg-Marquardt on the sphere.

        Args:
            start: `[directions, rank]`, not zero.

        Returns:
            `[directions, rank]` of length one, and `[directions]`: the share of the activations outside the space.
        """
        found = nn.functional.normalize(start, dim=1)
        damping = torch.full_like(found[:, 0], 1e-2)
        missed, size = self._missed(found)
        active = torch.arange(len(found), device=found.device)
        for _ in range(_STEPS):
            here, error = found[active], missed[active]
            normal, downhill = self._normal(here, error)
            scale = damping[active] * normal.diagonal(dim1=1, dim2=2).mean(dim=1)
            normal = normal + torch.diag_embed(scale[:, None].expand_as(here))
            moved = nn.functional.normalize(here - torch.linalg.solve(normal, downhill[..., None])[..., 0], dim=1)
            there, size_there = self._missed(moved)
            gain = 1 - there.square().sum(dim=1) / error.square().sum(dim=1)
            better = gain > 0
            found[active[better]], missed[active[better]] = moved[better], there[better]
            size[active[better]] = size_there[better]
            damping[active] = torch.where(better, damping[active] / 5, damping[active] * 4).clamp(1e-9, 1e6)
            active = active[~(better & (gain < _STALLED))]
            if not len(active):
                break
        return found, missed.norm(dim=1) / size

    def missed(self, directions: Tensor) -> Tensor:
        """`[directions]`: the share of the activations of directions `[directions, rank]` that lies outside the space."""
        outside, size = self._missed(directions)
        share: Tensor = outside.norm(dim=1) / size
        return share

    def _missed(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.activation(directions @ self.reader.T + self.offset)
        return seen - seen @ self.space @ self.space.T, seen.norm(dim=1)

    def _normal(self, directions: Tensor, missed: Tensor) -> tuple[Tensor, Tensor]:
        """The normal equations along the sphere: matrix `[directions, rank, rank]` and right side `[directions, rank]`."""
        slope = grad(lambda inputs: self.activation(inputs).sum())(directions @ self.reader.T + self.offset)
        moves = slope[..., None] * self.reader
        inside = self.space.T @ moves
        along = torch.eye(directions.shape[1]).to(directions) - directions[..., None] * directions[:, None]
        side = (along @ (moves.mT @ missed[..., None]))[..., 0]
        return along @ (moves.mT @ moves - inside.mT @ inside) @ along, side

    def places(self, directions: Tensor, known: Tensor, moves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where in an affine space the tokens before the attention lie, and what its heads put out for them.

        The token after the attention is `z + W_proj o + b`, and o lies in the row space of ∂W_proj: linear in all unknowns.

        Args:
            directions: `[directions, rank]`, of tokens.
            known: `[width]`, one point of the affine space of `z`.
            moves: `[width, dimensions]`, its span.

        Returns:
            `[directions, dimensions]`, `[directions]`: how far the best solution misses, relative to `known`, and
            `[directions, width]`: the outputs of all heads.
        """
        fixed, moves = known + self.bias, moves - moves.mean(dim=0)
        fixed = fixed - fixed.mean()
        common = torch.cat([moves, self.added], dim=1)
        solutions, misses = [], []
        for direction in directions:
            unknowns = torch.cat([common, -(self.basis @ direction)[:, None]], dim=1)
            sizes = unknowns.norm(dim=0)
            scaled = least_squares(unknowns / sizes, -fixed[:, None], cutoff=_CUTOFF)[:, 0]
            misses.append((unknowns / sizes @ scaled + fixed).norm() / fixed.norm())
            solutions.append((scaled / sizes)[:-1])
        solved, dimensions = torch.stack(solutions), moves.shape[1]
        return solved[:, :dimensions], torch.stack(misses), solved[:, dimensions:] @ self.outputs.T


def _mixed(points: list[Tensor], steps: list[Tensor]) -> Tensor:
    """Anderson's mixture of the last points of a fixed-point iteration: the one whose step is least, to first order."""
    points, steps = points[-_MEMORY:], steps[-_MEMORY:]
    if len(steps) == 1:
        return points[0]
    changes = torch.stack([later - earlier for earlier, later in pairwise(steps)], dim=1)
    moves = torch.stack([later - earlier for earlier, later in pairwise(points)], dim=1)
    return points[-1] - (moves @ least_squares(changes, steps[-1][:, None], cutoff=1e-10))[:, 0]


def _rows(gradient: Tensor, rank: int) -> Tensor:
    """`[columns, rank]`, orthonormal basis of the rows of a gradient behind its largest singular values."""
    basis: Tensor = torch.linalg.svd(gradient, full_matrices=False)[2][:rank].T
    return basis


def _around_attention(model: Victim, images: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """The patches' tokens before and after the first attention, `[patches, width]` float64 each."""
    block, kept = cast(Any, model.network).blocks[0], []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        kept.append(given[0].detach()[0, -len(masked) :].double())

    hooks = [module.register_forward_pre_hook(keep) for module in (block, block.norm2)]
    try:
        with torch.no_grad():
            model(images, masked if model.has_unknown_position else None)
    finally:
        for hook in hooks:
            hook.remove()
    return kept[0], kept[1]
