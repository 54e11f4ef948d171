"""What an attacker makes of how an update was sent: by training, in half precision, by AdamW.

The gradient behind a delta is `Observation.gradients`. This says how far its entries are to be trusted, and what a simulated
gradient would have looked like after the same treatment (`AttackerView.transform_gradient`).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from privbench.core import AttackerView, GradientTransform, Observation
from privbench.core.weight_delta import adam_resolution

__all__ = ["training_view"]

_SMALLEST: Mapping[str, float] = {"float16": 2.0**-25, "bfloat16": 2.0**-134}
"""What rounds to zero in half precision."""
_EPSILON = 1e-8
_NEAR = 0.99
"""Share of the largest gradient that AdamW's step resolves, from which a gradient counts as at least that."""


def training_view(view: AttackerView, observation: Observation) -> AttackerView:
    """A defense's view, with what local training and the precision of the update add to it.

    Args:
        view: Of the declared defense.
        observation: Whose update it is.

    Returns:
        The same view for a gradient, or a delta of SGD, in float32.
    """
    sends: list[GradientTransform] = []
    remarks: tuple[str, ...] = ()
    training = observation.training
    if observation.dtype != "float32":
        scale = 1.0 if training is None else training.learning_rate * training.gradient_weight
        sends.append(_underflow(_SMALLEST[observation.dtype] / scale))
        remarks += (f"sent-in-{observation.dtype}",)
    if training is not None and training.optimiser == "adamw":
        if training.steps == 1:
            sends.append(_at_least(_resolved(observation, training.learning_rate)))
        remarks += ("adamw-hides-magnitudes",)
    if observation.kind == "delta" and training is None:
        remarks += ("training-unknown",)
    if not remarks:
        return view
    before = view.transform_gradient

    def send(simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for one in [*([before] if before else []), *sends]:
            simulated = one(simulated, observed, known)
        return dict(simulated)

    exact = (
        view.entries_are_exact
        and observation.dtype == "float32"
        and not (training is not None and training.optimiser == "adamw")
    )
    return replace(
        view, transform_gradient=send if sends else before, remarks=(*view.remarks, *remarks), entries_are_exact=exact
    )


def _underflow(smallest: float) -> GradientTransform:
    """An entry that was observed as zero is any number too small to be sent."""

    def send(
        simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], _known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {
            name: torch.where((observed[name] == 0) & (value.abs() <= smallest), torch.zeros_like(value), value)
            for name, value in simulated.items()
        }

    return send


def _resolved(observation: Observation, rate: float) -> dict[str, Tensor]:
    """By name, the gradient from which on AdamW's first step shows nothing but the sign: as `gradient_of_delta` returns it."""
    limits = {}
    for name in observation.update:
        resolution = adam_resolution(observation.model_state[name], rate)
        limits[name] = (_EPSILON * (1 - resolution) / resolution).float()
    return limits


def _at_least(limits: Mapping[str, Tensor]) -> GradientTransform:
    """An entry observed at the limit is any number of that sign beyond it."""

    def send(
        simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], _known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        sent = {}
        for name, value in simulated.items():
            target = observed[name]
            lacking = torch.minimum(value * target.sign() - target.abs(), torch.zeros_like(value)) * target.sign()
            sent[name] = torch.where(target.abs() >= _NEAR * limits[name], target + lacking, value)
        return sent

    return send
