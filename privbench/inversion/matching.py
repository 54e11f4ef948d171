"""Distances between the gradient of a candidate and the observed one, parameter by parameter, by name.

Candidates carry a leading trials dimension; observed gradients have none. Every distance gives one value per trial.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = [
    "GradientDistance",
    "GuidedDistance",
    "LayerCosine",
    "MeanSquaredError",
    "RowCosine",
    "RowError",
    "SquaredError",
    "WholeCosine",
]

_TINY = 1e-12
_LEAST = 1e-30
"""Keeps the square root of a sum of squares differentiable at zero."""


def _rows(candidate: Tensor, observed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first rows of a table's gradients: `[trials, count, width]` of the candidates, `[count, width]` observed."""
    return candidate.flatten(1, 2)[:, :count], observed[0, :count]


class GradientDistance(ABC):
    """How far candidate gradients are from the observed ones."""

    @abstractmethod
    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Compares.

        Args:
            candidate: Parameter name to `[trials, *shape]`.
            observed: Parameter name to `[*shape]`, the same names.

        Returns:
            `[trials]`, non-negative, 0 where the gradients agree.
        """


class GuidedDistance(ABC):
    """A distance that looks at the candidates themselves, or differs from victim to victim."""

    @abstractmethod
    def __call__(
        self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]
    ) -> Tensor:
        """Compares.

        Args:
            candidate: Parameter name to `[trials, *shape]`.
            observed: Parameter name to `[*shape]`, the same names.
            images: The candidates, `[trials, batch, 3, height, width]` in [0, 1].
            context: The victim's context.

        Returns:
            `[trials]`, non-negative, 0 where the candidates explain what was observed.
        """


@dataclass(frozen=True)
class SquaredError(GradientDistance):
    """The sum of squared differences over all parameters (GradViT's L_grad)."""

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Sum over parameters and entries."""
        return torch.stack([(candidate[name] - observed[name]).square().flatten(1).sum(1) for name in observed]).sum(0)


@dataclass(frozen=True)
class MeanSquaredError(GradientDistance):
    """The mean squared difference of each parameter's gradient, summed over parameters: L_grad as it is re-implemented."""

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Sum over parameters of the mean over entries."""
        return torch.stack([(candidate[name] - observed[name]).square().flatten(1).mean(1) for name in observed]).sum(0)


@dataclass(frozen=True)
class LayerCosine(GradientDistance):
    """One minus the cosine similarity of each parameter's gradient, averaged over parameters.

    Scale-free, so that layers with small gradients count as much as the others; parameters with an observed gradient of
    zero say nothing about direction and are left out.

    Attributes:
        emphasis: By what the distance of single parameters is multiplied, by name.
    """

    emphasis: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Mean over parameters."""
        values = []
        for name, target in observed.items():
            flat, wanted = candidate[name].flatten(1), target.flatten()
            product = flat @ wanted
            size = wanted.square().sum()
            # Relative to what was observed: the gradients of a certain client are small everywhere.
            norms = (flat.square().sum(1) + _TINY * size + _LEAST).sqrt() * (size + _LEAST).sqrt()
            distance = torch.where(wanted.any(), 1 - product / norms, torch.zeros_like(product))
            values.append(self.emphasis.get(name, 1.0) * distance)
        return torch.stack(values).mean(0)


@dataclass(frozen=True)
class WholeCosine(GradientDistance):
    """One minus the cosine similarity of the gradients as one long vector (Inverting Gradients).

    Attributes:
        names: Parameters that the vector is made of; None for all. One name: the cosine of that gradient alone.
    """

    names: tuple[str, ...] | None = None

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Over all entries together."""
        names = tuple(observed) if self.names is None else self.names
        product = torch.stack([(candidate[name] * observed[name]).flatten(1).sum(1) for name in names]).sum(0)
        ours = torch.stack([candidate[name].square().flatten(1).sum(1) for name in names]).sum(0)
        target = torch.stack([observed[name].square().sum() for name in names]).sum()
        return 1 - product / ((ours + _TINY).sqrt() * (target + _TINY).sqrt())


@dataclass(frozen=True)
class RowCosine(GradientDistance):
    """One minus the cosine similarity of each row of one table, averaged over its rows: position embeddings.

    In a vision transformer the gradient of a position row is the gradient of that very token, so the rows tell, patch by
    patch, whether the candidate has the right content in the right place. Rows observed as zero are left out.

    Attributes:
        name: The table's parameter name, `[1, rows, width]`.
        rows: Number of rows compared, from the first one.
        power: A row counts by its observed length to this power; 0: all alike.
    """

    name: str
    rows: int
    power: float = 0.0

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Mean over rows."""
        ours, target = _rows(candidate[self.name], observed[self.name], self.rows)
        product = (ours * target).sum(2)
        sizes = target.square().sum(1)
        norms = (ours.square().sum(2) + _TINY * sizes + _LEAST).sqrt() * (sizes + _LEAST).sqrt()
        present = target.any(dim=1)
        shares = present * (sizes + _LEAST).pow(self.power / 2)
        distances = torch.where(present, 1 - product / norms, torch.zeros_like(product))
        return (shares * distances).sum(1) / shares.sum().clamp(min=_LEAST)


@dataclass(frozen=True)
class RowError(GradientDistance):
    """The squared error of each row of one table relative to the row's observed size, averaged over its rows.

    Where `RowCosine` compares directions, this also compares lengths: it fixes the contrast of each patch once the places
    are right. A tenth of the mean squared size is added to each, so that rows near zero do not dominate.

    Attributes:
        name: The table's parameter name, `[1, rows, width]`.
        rows: Number of rows compared, from the first one.
    """

    name: str
    rows: int

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Mean over rows."""
        ours, target = _rows(candidate[self.name], observed[self.name], self.rows)
        sizes = target.square().sum(1)
        return ((ours - target).square().sum(2) / (sizes + 0.1 * sizes.mean() + _LEAST)).mean(1)
