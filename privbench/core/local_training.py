"""What a client does that trains before it sends: `LocalTraining`, and what a weight delta says of the gradients behind it.

Under SGD, with momentum too, a delta is a weighted sum of the gradients of its steps, so that closed forms for gradients hold
for it. AdamW's first step is `lr g / (|g| + eps)`, which can be solved for the gradient as far as the rounding of the weights
allows.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from privbench.core.stored import StrictPart

__all__ = ["LocalTraining", "UpdateDtype", "dtype_of", "gradient_of_delta"]

UpdateDtype = Literal["float32", "float16", "bfloat16"]
"""In which the numbers of an update are sent."""

_DTYPES: Mapping[UpdateDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class LocalTraining(StrictPart):
    """Several optimiser steps on the client's own images, whose weight delta is sent.

    The images of a client are cut into `batches` mini-batches, in a new random order at every pass; each of the `steps` takes
    the next of them. One batch and five steps are five steps on the same images.
    """

    optimiser: Literal["sgd", "momentum", "adamw"] = "sgd"
    """As torch has them; `momentum` is SGD with momentum, all state starts at zero."""
    learning_rate: Annotated[float, Field(gt=0, le=1e3)] = 0.01
    """Of every step."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Optimiser steps, all epochs together."""
    batches: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Mini-batches into which the client's images are cut."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `momentum` alone."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Added to the gradient (SGD), or decoupled (AdamW)."""
    dtype: UpdateDtype = "float32"
    """In which the update is sent; training is in float32."""

    @model_validator(mode="before")
    @classmethod
    def _from_epochs(cls, given: Any) -> Any:
        """`epochs` stands for `steps`: passes over all mini-batches; `lr` is the short name of the learning rate."""
        if not isinstance(given, Mapping):
            return given
        given = dict(given)
        if "lr" in given:
            if "learning_rate" in given:
                raise ValueError("lr and learning_rate are the same; give one")
            given["learning_rate"] = given.pop("lr")
        if "epochs" in given:
            if "steps" in given:
                raise ValueError("steps and epochs say the same; give one")
            given["steps"] = int(given.pop("epochs")) * int(given.get("batches", 1))
        return given

    @property
    def epochs(self) -> int:
        """Passes over the images, the last one counted where it is begun."""
        return -(-self.steps // self.batches)

    @property
    def torch_dtype(self) -> torch.dtype:
        """That of the update."""
        return _DTYPES[self.dtype]

    @property
    def is_linear(self) -> bool:
        """Whether the delta is a weighted sum of the gradients."""
        return self.optimiser != "adamw"

    @property
    def gradient_weight(self) -> float:
        """The sum of the weights with which the gradients of the steps enter `-delta / learning_rate`."""
        if self.optimiser != "momentum":
            return float(self.steps)
        # A gradient counts once at its own step and, decayed, at all later ones.
        decay = self.momentum
        return sum((1 - decay ** (self.steps - step)) / (1 - decay) for step in range(self.steps))

    def __str__(self) -> str:
        parts = [self.optimiser, f"lr {self.learning_rate:g}", f"{self.steps} step{'s' if self.steps > 1 else ''}"]
        if self.batches > 1:
            parts.append(f"{self.batches} mini-batches")
        if self.weight_decay:
            parts.append(f"weight decay {self.weight_decay:g}")
        if self.dtype != "float32":
            parts.append(self.dtype)
        return ", ".join(parts)


_EPSILON = 1e-8
"""Of torch's AdamW."""
_ROUNDINGS = 4
"""So many roundings the optimiser itself makes on the way to a step."""


def gradient_of_delta(
    delta: Mapping[str, Tensor], weights: Mapping[str, Tensor], training: LocalTraining | None
) -> dict[str, Tensor]:
    """What a delta `after - before` says of the mean gradient of its steps, by name.

    SGD and momentum: exact, for the mean over steps. AdamW, one step: solved for the gradient; where the gradient is so large
    that the step is the learning rate to the last bit, only a lower bound of its size is known, and that is returned. AdamW,
    several steps: the mean normalised step, whose signs mean more than its sizes.

    Args:
        delta: Parameter name to `[*shape]`.
        weights: Before training; used where there is weight decay, and for the rounding of AdamW.
        training: What the client did; None where that is not known: minus the delta, of unknown size.

    Returns:
        Parameter name to `[*shape]`, float32 or wider.
    """
    wide = {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in delta.items()}
    if training is None:
        return {name: -value for name, value in wide.items()}
    rate, decay = training.learning_rate, training.weight_decay
    found = {}
    for name, value in wide.items():
        start = weights[name].to(value)
        if training.is_linear:
            gradient = -value / (rate * training.gradient_weight)
            # Weights move little in one round: their middle stands for each step's.
            found[name] = gradient - decay * (start + value / 2) if decay else gradient
        else:
            step = normalised_steps({name: value}, {name: start}, training)[name]
            found[name] = _before_adam(step, start, rate) if training.steps == 1 else step
    return found


def normalised_steps(delta: Mapping[str, Tensor], weights: Mapping[str, Tensor], training: LocalTraining) -> dict[str, Tensor]:
    """Of AdamW: the mean over steps of `m / (sqrt(v) + eps)`, by name; decoupled weight decay is taken off."""
    scale = training.learning_rate * training.steps
    return {name: -value / scale - training.weight_decay * weights[name].to(value) for name, value in delta.items()}


def _before_adam(step: Tensor, weight: Tensor, rate: float) -> Tensor:
    """Solves `step = g / (|g| + eps)` for g, as far as weights in float32 resolve it."""
    size = step.abs().double().minimum(1 - adam_resolution(weight, rate))
    gradient: Tensor = step.sign() * _EPSILON * size / (1 - size)
    return gradient.to(step.dtype)


def adam_resolution(weight: Tensor, rate: float) -> Tensor:
    """What the rounding of weights and step in float32 leaves of AdamW's first step, in units of the rate; float64."""
    epsilon = torch.finfo(torch.float32).eps
    resolution: Tensor = epsilon * (weight.abs().double() / rate + _ROUNDINGS)
    return resolution.clamp(max=0.5)


def dtype_of(update: Mapping[str, Tensor]) -> UpdateDtype:
    """The narrowest precision that holds every entry of an update exactly: how it was sent, whatever it was stored as.

    Args:
        update: Parameter name to `[*shape]`, not empty.
    """
    for name in ("bfloat16", "float16"):
        if all(bool((value.to(_DTYPES[name]).to(value.dtype) == value).all()) for value in update.values()):
            return name
    return "float32"
