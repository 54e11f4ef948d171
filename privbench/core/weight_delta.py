"""What a weight delta says of the gradients behind it.

Under SGD, with momentum too, a delta is a weighted sum of the gradients of its steps, so that closed forms for gradients hold
for it. AdamW's first step is `lr g / (|g| + eps)`, which can be solved for the gradient as far as the rounding of the weights
allows.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from privbench.core.local_training import LocalTraining, UpdateDtype

__all__ = ["adam_resolution", "dtype_of", "gradient_of_delta", "normalised_steps"]

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
    if any(value.is_meta for value in update.values()):
        return "float32"  # tensors without values say nothing of how they were rounded
    narrow: tuple[tuple[UpdateDtype, torch.dtype], ...] = (("bfloat16", torch.bfloat16), ("float16", torch.float16))
    for name, kind in narrow:
        if all(bool((value.to(kind).to(value.dtype) == value).all()) for value in update.values()):
            # Signs are exact in every precision: they say nothing of how they were rounded.
            signs = all(len(torch.unique(value.abs())) <= 2 for value in update.values())
            return "float32" if signs else name
    return "float32"
