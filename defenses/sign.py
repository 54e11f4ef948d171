"""The sign of every entry alone: signSGD (Bernstein et al., ICML 2018, arXiv 1802.04434).

With `magnitude=mean` each parameter's signs are scaled by the mean magnitude of its gradient (scaled signSGD, Karimireddy et
al., ICML 2019, arXiv 1901.09847); with `magnitude=one` they are sent bare.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, GradientTransform, Observation

__all__ = ["GradientSign"]

_TINY = 1e-30


class GradientSign(Defense):
    """Sends the sign of every entry, one magnitude for each parameter."""

    name: ClassVar[str] = "sign"

    magnitude: Literal["mean", "one"] = "mean"
    """What the signs are multiplied by: the mean magnitude of the parameter's gradient, or 1 (the published form)."""

    def protect_gradients(self, gradients: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Entries of zero stay zero."""
        return {
            name: value.sign() * value.abs().mean() if self.magnitude == "mean" else value.sign()
            for name, value in gradients.items()
        }

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The signs are simulated, with the magnitude that the update shows.

        Of the simulated gradient, scaled to the observed magnitude, only entries of the wrong sign are told from the observed
        ones, by what they are on the wrong side of zero (the one-sided loss of one-bit compressed sensing, Jacques et al., IEEE
        Trans. Inf. Theory 2013, arXiv 1104.3160). There is no random choice that an oracle could be told.
        """
        return AttackerView(
            transform_gradient=_by_parameter(_wrong_side),
            transform_gradient_inside=_by_parameter(_sign),
            entries_are_exact=False,
        )

    def guarantee(self) -> str:
        """A heuristic."""
        kept = "and one mean magnitude per parameter" if self.magnitude == "mean" else "and no magnitude"
        return (
            f"Sends the sign of every entry {kept}; what the magnitudes tell is hidden, what all signs tell together is "
            "not; no epsilon of its own (n/a): nothing is random."
        )


def _by_parameter(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> GradientTransform:
    def transform(
        simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], _known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {name: _scaled(value, observed[name], change) for name, value in simulated.items()}

    return transform


def _scaled(value: Tensor, observed: Tensor, change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    # Later parts of a composition may have set entries to zero; the magnitude is that of the others.
    magnitude = observed.abs().sum() / (observed != 0).sum().clamp(min=1)
    size = value.abs().mean()
    # The scale is part of the derivative: a gradient does not get better by getting smaller.
    scaled = value * torch.where(size > 0, magnitude / size.clamp(min=_TINY), 1)
    return change(scaled, observed, magnitude)


def _wrong_side(scaled: Tensor, observed: Tensor, _magnitude: Tensor) -> Tensor:
    return torch.where(scaled * observed < 0, observed + scaled, observed)


def _sign(scaled: Tensor, _observed: Tensor, magnitude: Tensor) -> Tensor:
    """Signs of the observed magnitude; the derivative passes straight through."""
    return scaled + (scaled.sign() * magnitude - scaled).detach()
