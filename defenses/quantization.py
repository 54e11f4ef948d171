"""Quantisation of the gradient to few bits, after TernGrad (Wen et al., NeurIPS 2017) and QSGD (Alistarh et al., NeurIPS 2017).

Each parameter's gradient is rounded to a uniform grid, symmetric around zero, that ends at its largest magnitude. At two bits
with stochastic rounding this is TernGrad without its clipping.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, GradientTransform, Observation

__all__ = ["GradientQuantization"]

_TINY = 1e-30


class GradientQuantization(Defense):
    """Rounds every parameter's gradient to a uniform grid."""

    name: ClassVar[str] = "quantization"

    bits: Annotated[int, Field(ge=2, le=16)] = 2
    """Bits of each entry: the grid has `2^bits - 1` points, zero in the middle and the largest magnitude at its ends."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """To the nearest point, or to one of the two neighbours at random, so that the expected gradient is the exact one."""

    @property
    def levels(self) -> int:
        """Points of the grid on either side of zero."""
        return (1 << (self.bits - 1)) - 1

    def protect_gradients(self, gradients: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Rounds parameter by parameter."""
        return {name: self._rounded(value, generator) for name, value in gradients.items()}

    def _rounded(self, value: Tensor, generator: torch.Generator) -> Tensor:
        cell = _cell(value, self.levels)
        if self.rounding == "nearest":
            return (value / cell).round() * cell
        drawn = torch.rand(value.shape, generator=generator, dtype=value.dtype).to(value.device)
        # Rounding of the quotient may put the largest entry a hair beyond the last point.
        return (value / cell + drawn).floor().clamp(-self.levels, self.levels) * cell

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The rounding is simulated on the grid that the update shows: its largest entry is the grid's end.

        Nearest rounding: an entry of the simulated gradient is told from the observed one by what it is outside of the cell
        that is rounded to that point. Stochastic rounding: the plain gradient, which is the expected one; the oracle is not
        told the draws, which would give back part of what rounding took.
        """
        if self.rounding == "stochastic":
            return AttackerView(entries_are_exact=False)
        return AttackerView(
            transform_gradient=_by_parameter(_outside, self.levels),
            transform_gradient_inside=_by_parameter(_on_grid, self.levels),
            entries_are_exact=False,
        )

    def guarantee(self) -> str:
        """A heuristic."""
        return (
            f"Sends {self.bits} bits of every entry and hides what is smaller than a cell of the grid in each of them, not in "
            "their sum; no epsilon of its own (n/a): neighbouring images stay distinguishable."
        )


def _cell(value: Tensor, levels: int) -> Tensor:
    """Distance of the grid's points, a scalar above zero."""
    return (value.abs().amax() / levels).clamp(min=_TINY)


def _by_parameter(change: Callable[[Tensor, Tensor, int], Tensor], levels: int) -> GradientTransform:
    def transform(
        simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], _known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {name: change(value, observed[name], levels) for name, value in simulated.items()}

    return transform


def _on_grid(value: Tensor, _observed: Tensor, levels: int) -> Tensor:
    """Rounded to the grid of its own largest entry; the derivative passes straight through (Bengio et al., arXiv 1308.3432)."""
    cell = _cell(value.detach(), levels)
    return value + ((value / cell).round() * cell - value).detach()


def _outside(value: Tensor, observed: Tensor, levels: int) -> Tensor:
    """`observed` where `value` would be rounded to it, and `observed` with what `value` lacks of that elsewhere."""
    cell = _cell(observed, levels)
    # Nothing lies beyond the grid's ends.
    lowest = (observed - cell / 2).clamp(min=-levels * cell)
    highest = (observed + cell / 2).clamp(max=levels * cell)
    return observed + value - value.clamp(lowest, highest)
