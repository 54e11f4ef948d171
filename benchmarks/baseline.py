"""Plain double backward: gradient matching as public tools write it, without their overhead.

The objective is that of Inverting Gradients (Geiping et al., NeurIPS 2020) as `breaching` computes it, so that all competitors
of a benchmark descend the same function:

    1 - <g, G> / (|g| |G|)  +  variation * TV(images)

with `g` the simulated and `G` the observed gradient of the mean cross-entropy, each the concatenation of all parameters (one
cosine over everything, not a mean over layers), and TV as in `total_variation`. The step is Adam with torch's defaults, a
constant learning rate and a projection onto [0, 1].
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.timing import clock
from privbench.core import UserError

__all__ = ["PeerRun", "PlainObjective", "in_order", "run_plain", "second_order_copy", "total_variation"]


@dataclass(frozen=True)
class PeerRun:
    """One inversion and the time it took.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1].
        seconds: Time of the steps alone: no set-up, no scoring.
        steps: Number of steps.
        losses: `[steps]` on the CPU, the objective before each step.
    """

    images: Tensor
    seconds: float
    steps: int
    losses: Tensor


class PlainObjective:
    """The objective as a function of the images; what does not change between steps is computed once.

    Args:
        model: Images in [0, 1] to logits; it must be differentiable twice (`second_order_copy`).
        gradients: Observed gradient of the mean cross-entropy by parameter name, one for each parameter of the model.
        labels: `[batch]` int64.
        variation: Weight of the total variation; at 0 it is not computed.

    Raises:
        UserError: The gradients are not those of the model's parameters.
    """

    def __init__(self, model: nn.Module, gradients: Mapping[str, Tensor], labels: Tensor, variation: float) -> None:
        self.model = model
        self.labels = labels
        self.variation = variation
        self.parameters = list(model.parameters())
        # Sums over one parameter at a time: a float32 `norm` of all of them at once is off in the fourth digit on a CPU.
        target = [value.flatten() for value in in_order(model, gradients)]
        norm = torch.stack([torch.dot(value, value) for value in target]).sum().sqrt()
        self.direction = [value / norm for value in target]

    def __call__(self, images: Tensor) -> Tensor:
        """The objective of `[batch, 3, height, width]`, a scalar that can be differentiated by the images."""
        loss = nn.functional.cross_entropy(self.model(images), self.labels)
        simulated = [value.flatten() for value in torch.autograd.grad(loss, self.parameters, create_graph=True)]
        along = torch.stack([torch.dot(value, unit) for value, unit in zip(simulated, self.direction, strict=True)]).sum()
        squares = torch.stack([torch.dot(value, value) for value in simulated]).sum()
        distance: Tensor = 1 - along / squares.sqrt()
        return distance + self.variation * total_variation(images) if self.variation else distance


def total_variation(images: Tensor) -> Tensor:
    """Absolute differences of neighbours, down plus right, divided by the number of values of all images.

    Outside the image the value is 0, as in `breaching`, so the last row and the last column add their own brightness.
    """
    padded = nn.functional.pad(images, (0, 1, 0, 1))
    down = padded[..., 1:, :-1] - images
    right = padded[..., :-1, 1:] - images
    return (down.abs() + right.abs()).mean()


def run_plain(
    model: nn.Module,
    gradients: Mapping[str, Tensor],
    labels: Tensor,
    start: Tensor,
    *,
    steps: int,
    learning_rate: float,
    variation: float,
    signed: bool = False,
) -> PeerRun:
    """Inverts a gradient; the device is never waited for between the first step and the last.

    Args:
        model: Images in [0, 1] to logits; left as found.
        gradients: Observed gradient by parameter name, one for each parameter of the model.
        labels: `[batch]` int64.
        start: `[batch, 3, height, width]` in [0, 1].
        steps: Number of steps.
        learning_rate: Adam's.
        variation: Weight of the total variation.
        signed: Whether Adam gets the sign of the image gradient in its place.

    Returns:
        The last iterate.

    Raises:
        UserError: The gradients are not those of the model's parameters.
    """
    objective = PlainObjective(second_order_copy(model), gradients, labels, variation)
    images = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([images], lr=learning_rate)
    losses: list[Tensor] = []
    started = clock(start.device)
    for _ in range(steps):
        loss = objective(images)
        (gradient,) = torch.autograd.grad(loss, [images])
        images.grad = gradient.sign() if signed else gradient
        optimiser.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        losses.append(loss.detach())
    seconds = clock(start.device) - started
    return PeerRun(images.detach(), seconds, steps, torch.stack(losses).cpu())


def in_order(model: nn.Module, gradients: Mapping[str, Tensor]) -> list[Tensor]:
    """The gradients in the order of the model's parameters.

    Raises:
        UserError: The gradients are not those of the model's parameters.
    """
    names = [name for name, _ in model.named_parameters()]
    if set(names) != set(gradients):
        raise UserError(
            "the gradients are not those of the model's parameters; "
            f"they differ in {', '.join(sorted(set(names) ^ set(gradients)))}"
        )
    return [gradients[name] for name in names]


def second_order_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose attention is written out: fused attention has no second derivative."""
    copied = copy.deepcopy(model).eval().requires_grad_()
    for module in copied.modules():
        if hasattr(module, "fused_attn"):
            cast(Any, module).fused_attn = False
    return copied
