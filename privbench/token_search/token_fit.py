"""Tokens by the activations of the first MLP, searched where a Gaussian prior expects them.

A token `a = centre + moves y` is the most likely one whose activations lie in the row space of ∂W_fc2:
`min |(1 - S Sᵀ) φ(h(a/|a|))|² / (c s)² + |y|²`, by Levenberg-Marquardt in the few numbers y, with s falling. Many starts are
solved side by side in float32; `Activations.polished` takes over from there in all dimensions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad

from privbench.closed_form.activations import Activations

__all__ = ["fitted"]

_TOLERANCES = (0.02, 0.005, 0.002)
"""Share s of the activations that may lie outside, stage after stage."""
_STEPS = 6
"""Steps of each stage."""
_CHUNK = 96
"""Starts that are solved side by side, for the memory of their Jacobians."""


def fitted(activations: Activations, centres: Tensor, moves: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Solves from each start.

    Args:
        activations: The test.
        centres: `[starts, rank]`.
        moves: `[rank, numbers]`.
        starts: `[starts, numbers]`, y to start from.

    Returns:
        `[starts, rank]` float64 directions of length one, and `[starts]`: the share of the activations outside the space.
    """
    problem = _Problem.of(activations, moves)
    parts = [slice(first, first + _CHUNK) for first in range(0, len(centres), _CHUNK)]
    found = [problem.solved(centres[part], starts[part]) for part in parts]
    directions, missed = (torch.cat(part) for part in zip(*found, strict=True))
    return directions, missed


@dataclass(frozen=True)
class _Point:
    """The starts at some y: inputs of the activations before the offset, lengths, errors and their sizes, `moves`ᵀ a."""

    numbers: Tensor
    inputs: Tensor
    length: Tensor
    error: Tensor
    size: Tensor
    along: Tensor

    def where(self, better: Tensor, other: "_Point") -> "_Point":
        """This one, and the other where it is better."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return _Point(*(torch.where(better.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))


@dataclass(frozen=True)
class _Problem:
    activations: Activations
    reader: Tensor
    moves: Tensor
    offset: Tensor
    space: Tensor

    @classmethod
    def of(cls, activations: Activations, moves: Tensor) -> "_Problem":
        reader = activations.reader
        single = (value.float() for value in (reader @ moves, moves, activations.offset, activations.space))
        return cls(activations, *single)

    def solved(self, centres: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        known, centres = (centres @ self.activations.reader.T).float(), centres.float()
        point = self._at(starts.float(), known, centres)
        damping = torch.full_like(point.size, 1e-2)
        for tolerance in _TOLERANCES:
            unit = point.size * tolerance
            cost = self._cost(point, unit)
            for _ in range(_STEPS):
                moved = self._at(point.numbers - self._step(point, unit, damping), known, centres)
                cost_there = self._cost(moved, unit)
                better = cost_there < cost
                point, cost = point.where(better, moved), torch.where(better, cost_there, cost)
                damping = torch.where(better, damping / 5, damping * 4).clamp(1e-7, 1e6)
        tokens = centres + point.numbers @ self.moves.T
        return nn.functional.normalize(tokens.double(), dim=1), (point.error.norm(dim=1) / point.size).double()

    def _at(self, numbers: Tensor, known: Tensor, centres: Tensor) -> _Point:
        inputs, tokens = known + numbers @ self.reader.T, centres + numbers @ self.moves.T
        length = tokens.norm(dim=1).clamp(min=1e-3)
        seen = self.activations.activation(inputs / length[:, None] + self.offset)
        error = seen - seen @ self.space @ self.space.T
        return _Point(numbers, inputs, length, error, seen.norm(dim=1), tokens @ self.moves)

    def _cost(self, point: _Point, unit: Tensor) -> Tensor:
        return (point.error / unit[:, None]).square().sum(dim=1) + point.numbers.square().sum(dim=1)

    def _step(self, point: _Point, unit: Tensor, damping: Tensor) -> Tensor:
        """The step of Levenberg-Marquardt; the direction's length is part of what moves."""
        inputs = point.inputs / point.length[:, None]
        slope = grad(lambda given: self.activations.activation(given).sum())(inputs + self.offset)
        shrink = point.along / point.length.square()[:, None]
        scale = slope / (point.length * unit)[:, None]
        changes = scale[..., None] * (self.reader - point.inputs[..., None] * shrink[:, None])
        inside = self.space.T @ changes
        normal = changes.mT @ changes - inside.mT @ inside
        side = (changes.mT @ (point.error / unit[:, None])[..., None])[..., 0] + point.numbers
        diagonal = normal.diagonal(dim1=1, dim2=2)
        diagonal += 1 + damping[:, None] * (1 + diagonal.mean(dim=1, keepdim=True))
        step: Tensor = torch.linalg.solve(normal, side[..., None])[..., 0]
        return step
