"""Clipping of the whole gradient to an L2 norm, as in federated averaging (McMahan et al., ICLR 2018, arXiv 1710.06963).

It changes the length of the update and never its direction. Clipping of each sample's gradient is part of `dpsgd`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, Effect, GradientTransform, Observation

__all__ = ["SMALLEST_NORM", "GradientClipping", "clipped_as", "whole_norm"]

SMALLEST_NORM = 1e-6
"""Norms from here on are sums of squares that float32 holds, whatever the size of the model."""
_TINY = 1e-12


class GradientClipping(Defense):
    """Scales the gradient down to a given L2 norm where it is longer."""

    name: ClassVar[str] = "clipping"
    not_after: ClassVar[Mapping[Effect, str]] = MappingProxyType(
        {"noise-of-given-size": "the images would decide how far the noise is scaled down"}
    )

    max_norm: Annotated[float, Field(ge=SMALLEST_NORM)] = 1.0
    """Largest L2 norm of the gradient of all parameters together, from 1e-6."""

    def protect_gradients(self, gradients: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Scales all parameters by one factor."""
        factor = (self.max_norm / whole_norm(gradients).clamp(min=_TINY)).clamp(max=1)
        return {name: value * factor for name, value in gradients.items()}

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The simulated gradient is clipped as the client's was; there is no random choice that an oracle could be told."""
        name = "clipping.observed-norm"
        return AttackerView(known={name: whole_norm(observation.gradients)}, transform_gradient=clipped_as(self.max_norm, name))

    def guarantee(self) -> str:
        """A bound on the length alone."""
        return (
            f"Bounds the update's L2 norm to {self.max_norm:g}; its direction, which gradient inversion reads, is sent as it "
            "is; no epsilon of its own (n/a): nothing is random."
        )


def whole_norm(gradients: Mapping[str, Tensor]) -> Tensor:
    """L2 norm of all parameters' gradients as one long vector, a scalar."""
    return torch.stack([value.square().sum() for value in gradients.values()]).sum().sqrt()


def clipped_as(max_norm: float, observed_norm: str) -> GradientTransform:
    """Clips a simulated gradient of some of the parameters as the client clipped that of all.

    The matched parameters' share of the bound is their share of the observed norm; the rest of the simulated gradient need not
    be formed. At the true images this is the client's own factor, whether it clipped or not.

    Args:
        max_norm: The client's bound.
        observed_norm: Name in `known` of the norm of the whole observed gradient, a scalar.
    """

    def transform(
        simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        share = whole_norm(observed) / known[observed_norm].clamp(min=_TINY)
        length = (torch.stack([value.square().sum() for value in simulated.values()]).sum() + _TINY**2).sqrt()
        factor = (max_norm * share / length).clamp(max=1)
        return {name: value * factor for name, value in simulated.items()}

    return transform
