"""The engine on the objective of the baseline, through its public interface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.baseline import PeerRun, second_order_copy, total_variation
from benchmarks.timing import clock
from privbench.core import ComputeOptions, Progress, UserError
from privbench.inversion import (
    Adam,
    Constant,
    GradientDistance,
    ImagePrior,
    Inversion,
    MatchingTerm,
    Pixels,
    PriorTerm,
    Target,
)

__all__ = ["WARM_UP", "Problem", "WholeCosine", "plain_inversion", "run_ours"]

WARM_UP = 20
"""Steps that are not timed, unless told: the graph is recorded and compiled in the first of them."""
_READ_EVERY = 10
"""The engine reports every tenth step and the last, and the clock is read at its reports."""


@dataclass(frozen=True)
class Problem:
    """One victim: observed gradient of every parameter by name, `[batch]` labels, start `[batch, 3, height, width]`."""

    gradients: Mapping[str, Tensor]
    labels: Tensor
    start: Tensor


@dataclass(frozen=True)
class WholeCosine(GradientDistance):
    """One minus the cosine similarity over all parameters together, as `breaching` has it."""

    def __call__(self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """`[trials]`."""
        product = sum(candidate[name].flatten(1) @ observed[name].flatten() for name in observed)
        size = sum(candidate[name].flatten(1).square().sum(1) for name in observed)
        target = sum(observed[name].square().sum() for name in observed)
        result: Tensor = 1 - product / (size.sqrt() * target.sqrt())  # type: ignore[union-attr]
        return result


@dataclass(frozen=True)
class _Variation(ImagePrior):
    """The baseline's total variation."""

    def __call__(self, images: Tensor) -> Tensor:
        """`[trials]`."""
        return torch.stack([total_variation(trial) for trial in images])


@dataclass
class _Clock(Progress):
    """Reads the clock at every report from the end of the warm-up on."""

    device: torch.device
    warm_up: int
    readings: list[tuple[int, float]] = field(default_factory=list)

    def report(self, step: int, total: int, phase: str, *losses: Mapping[str, float]) -> None:
        if step >= self.warm_up:
            self.readings.append((step, clock(self.device)))

    @property
    def seconds_per_step(self) -> float:
        (first, began), (last, ended) = self.readings[0], self.readings[-1]
        return (ended - began) / (last - first)


def plain_inversion(model: nn.Module, *, steps: int, learning_rate: float, variation: float) -> Inversion:
    """The baseline's objective as a declaration for the engine.

    Args:
        model: Images in [0, 1] to logits; left as found.
        steps: Number of steps.
        learning_rate: Adam's learning rate.
        variation: Weight of the total variation.
    """
    network = second_order_copy(model).requires_grad_(False)

    def simulate(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(network, dict(parameters), (images,))
        return nn.functional.cross_entropy(logits, context["labels"])

    return Inversion(
        simulate=simulate,
        parameters=dict(network.named_parameters()),
        matching=[MatchingTerm("gradient", Constant(1.0), WholeCosine())],
        priors=[PriorTerm("variation", Constant(variation), _Variation())],
        steps=steps,
        parametrisation=Pixels(Adam(Constant(learning_rate))),
    )


def run_ours(
    model: nn.Module,
    problems: Sequence[Problem],
    *,
    steps: int,
    learning_rate: float,
    variation: float,
    compile: Literal["on", "off"],  # noqa: A002 (the name of the option)
    warm_up: int = WARM_UP,
) -> list[PeerRun]:
    """Inverts all problems in one group.

    Args:
        model: Images in [0, 1] to logits; left as found.
        problems: What to invert.
        steps: Number of steps, more than those of the warm-up.
        learning_rate: Adam's learning rate.
        variation: Weight of the total variation.
        compile: Whether the step is compiled.
        warm_up: Steps that are not timed, a multiple of 10, for the clock is read at every tenth step and the last.

    Returns:
        One run for each problem. `seconds` is `steps` times the time of a step after the warm-up, of the whole group, reports
        included; `losses` is empty.

    Raises:
        UserError: The warm-up ends where the clock is not read, or no step is left to time.
    """
    if warm_up % _READ_EVERY or not 0 < warm_up < steps:
        raise UserError(
            f"a warm-up of {warm_up} of {steps} steps leaves none whose time is known; "
            f"accepted: a multiple of {_READ_EVERY} below {steps}"
        )
    inversion = plain_inversion(model, steps=steps, learning_rate=learning_rate, variation=variation)
    targets = [Target(one.gradients, one.start[None], {"labels": one.labels}) for one in problems]
    watch = _Clock(problems[0].start.device, warm_up)
    outcomes = inversion.run(targets, watch, ComputeOptions(compile=compile))
    seconds = watch.seconds_per_step * steps
    return [PeerRun(outcome.images, seconds, steps, torch.empty(0)) for outcome in outcomes if hasattr(outcome, "images")]
