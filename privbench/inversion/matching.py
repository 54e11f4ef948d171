"""Distances between the gradient of a candidate and the observed one, parameter by parameter, by name.

Candidates carry a leading trials dimension; observed gradients have none. Every distance gives one value per trial.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GradientDistance", "LayerCosine", "RowCosine", "RowError", "SquaredError", "WholeCosine"]

_TINY = 1e-12


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


@dataclass(frozen=True)
class SquaredError(GradientDistance):
    """The sum of squared differences over all parameters (GradViT's L_grad)."""

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Sum over parameters and entries."""
        return torch.stack([(candidate[name] - observed[name]).square().flatten(1).sum(1) for name in observed]).sum(0)


@dataclass(frozen=True)
class LayerCosine(GradientDistance):
    """One minus the cosine similarity of each parameter's gradient, averaged over parameters.

    Scale-free, so that layers with small gradients count as much as the others; parameters with an observed gradient of
    zero say nothing about direction and are left out.
    """

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Mean over parameters."""
        values = []
        for name, target in observed.items():
            flat, wanted = candidate[name].flatten(1), target.flatten()
            product = flat @ wanted
            norms = (flat.square().sum(1) + _TINY).sqrt() * (wanted.square().sum() + _TINY).sqrt()
            values.append(torch.where(wanted.any(), 1 - product / norms, torch.zeros_like(product)))
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
    """

    name: str
    rows: int

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """Mean over rows."""
        ours, target = _rows(candidate[self.name], observed[self.name], self.rows)
        product = (ours * target).sum(2)
        norms = (ours.square().sum(2) + _TINY).sqrt() * (target.square().sum(1) + _TINY).sqrt()
        present = target.any(dim=1)
        return torch.where(present, 1 - product / norms, torch.zeros_like(product)).sum(1) / present.sum().clamp(min=1)


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
        return ((ours - target).square().sum(2) / (sizes + 0.1 * sizes.mean() + _TINY)).mean(1)
