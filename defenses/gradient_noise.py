"""Gaussian noise on the gradient, without clipping: a baseline of Deep Leakage from Gradients (Zhu et al., NeurIPS 2019).

Without a bound on what one image can move, noise of any size promises nothing; `dpsgd` is noise with that bound.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, Effect, Observation

__all__ = ["GradientNoise", "gaussian"]


class GradientNoise(Defense):
    """Adds independent Gaussian noise to every entry of the gradient."""

    name: ClassVar[str] = "gradient-noise"
    effects: ClassVar[frozenset[Effect]] = frozenset({"noise-of-given-size"})

    std: Annotated[float, Field(gt=0)] = 1e-2
    """Standard deviation of the noise, in units of the gradient's entries (of the mean loss over the batch)."""
    scale: Literal["absolute", "relative"] = "absolute"
    """`relative`: the deviation counts in root mean squares of the gradient's entries, so that it is the norm of the noise
    over that of the gradient, whatever the training state."""

    def protect_gradients(self, gradients: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Draws anew for every entry."""
        std = self.std * (_root_mean_square(gradients) if self.scale == "relative" else 1)
        return {name: value + gaussian(value, std, generator) for name, value in gradients.items()}

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The plain gradient, which is the expected one, but no single entry is trusted.

        The unaware takes the noisy gradient for exact. The oracle is not told the noise: it would subtract it, and nothing
        would be left to measure.
        """
        return AttackerView(entries_are_exact=False)

    def guarantee(self) -> str:
        """No epsilon."""
        return (
            f"Hides what is smaller than Gaussian noise of {self.scale} deviation {self.std:g} in every entry; no "
            "epsilon of its own (n/a): nothing here bounds how far one image moves the gradient (its sensitivity), so no noise "
            "level would do."
        )


def _root_mean_square(gradients: dict[str, Tensor]) -> float:
    squares = sum(float(value.double().square().sum()) for value in gradients.values())
    return math.sqrt(squares / max(1, sum(value.numel() for value in gradients.values())))


def gaussian(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Independent normal numbers of one deviation in the shape of a tensor, drawn on the CPU: the same on every device."""
    return (std * torch.randn(like.shape, generator=generator, dtype=like.dtype)).to(like.device)
