"""A step through autograd's double backward, victim by victim: what every other implementation does.

It computes what `Step` computes. Where nothing is compiled and products have no faster kernel, it is the faster of the two, and
benchmarks compare with it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from privbench.inversion.step import Objective, Step, StepSettings, sent_gradients
from privbench.inversion.variables import Moving

__all__ = ["plain_step"]


def plain_step(
    step: Step,
    moving: Moving,
    settings: StepSettings,
    observed: Mapping[str, Tensor],
    context: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
) -> tuple[Moving, Tensor]:
    """Takes one step; arguments and results as of `Step`."""
    weights = torch.stack([settings.weights[name] for name in step.names])
    slopes, losses = [], []
    for victim in range(len(moving.tensors[0])):
        with torch.enable_grad():
            values = {name: value[victim].detach().requires_grad_() for name, value in moving.values.items()}
            own = _of(observed, victim), _of(context, victim)
            terms = _losses(step.objective, values, *own, parameters)
            total = (weights[:, None] * terms).sum()
            slope = torch.autograd.grad(total, list(values.values()), allow_unused=True, materialize_grads=True)
        slopes.append(dict(zip(values, slope, strict=True)))
        losses.append(terms.detach())
    gradients = {name: torch.stack([one[name] for one in slopes]) for name in moving.values}
    return step.updated(moving, gradients, settings), torch.stack(losses)


def _losses(
    objective: Objective,
    values: Mapping[str, Tensor],
    observed: Mapping[str, Tensor],
    context: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
) -> Tensor:
    images = objective.parametrisation.images(values)
    free = {name: value for name, value in values.items() if name not in objective.parametrisation.variables}
    terms = []
    if objective.matching:
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        trials = []
        for trial, candidate in enumerate(images):
            loss = objective.simulate(leaves, candidate, {**context, **_of(free, trial)})
            trials.append(
                torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True)
            )
        stacked = {name: torch.stack(parts) for name, parts in zip(leaves, zip(*trials, strict=True), strict=True)}
        gradients = sent_gradients(objective.send, stacked, observed, context)
        terms += [term.value(gradients, observed, images, {**context, **free}) for term in objective.matching]
    terms += [term.value(images, {**context, **free}) for term in objective.priors]
    return torch.stack(terms)


def _of(group: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    return {name: value[place] for name, value in group.items()}
