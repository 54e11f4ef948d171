"""One optimisation step as a pure function of tensors: objective, its gradient in the variables, Adam's update, the box.

All victims of a group take it in one call, each with its own observed gradient and context.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from privbench.core import GradientTransform
from privbench.inversion.terms import MatchingTerm, PriorTerm
from privbench.inversion.variables import Moving, Parametrisation, Variable

__all__ = ["Objective", "Simulator", "Step", "StepSettings", "parameter_gradients", "sent_gradients"]

Simulator = Callable[[Mapping[str, Tensor], Tensor, Mapping[str, Tensor]], Tensor]
"""The simulated client's loss, a scalar, of `(parameters, images, context)`.

`parameters` replace the model's own by name; `images` are `[batch, 3, height, width]`, in [0, 1] up to what the
parametrisation lets out; `context` is what else differs from victim to victim (labels, masks, orders), and the variables that
are optimised besides the images. A function of its arguments alone, made of torch operations without control flow that depends
on values.
"""

_EPSILON = 1e-8


def parameter_gradients(
    simulate: Simulator,
    parameters: Mapping[str, Tensor],
    images: Tensor,
    context: Mapping[str, Tensor],
    free: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Parameter gradients of the simulated client, differentiable in images and free variables by `torch.func`.

    Args:
        simulate: The simulated client's loss.
        parameters: Those with respect to which to differentiate, by name.
        images: `[trials, batch, 3, height, width]`.
        context: The victim's context.
        free: Variables besides the images: name to `[trials, ...]`; the simulator finds them in its context.

    Returns:
        Parameter name to `[trials, *shape]`.
    """

    def of_trial(trial: Tensor, free: Mapping[str, Tensor]) -> dict[str, Tensor]:
        gradients: dict[str, Tensor] = grad(simulate)(dict(parameters), trial, {**context, **free})
        return gradients

    free = dict(free or {})
    if len(images) == 1:
        return {name: value[None] for name, value in of_trial(images[0], _first(free)).items()}
    together: dict[str, Tensor] = vmap(of_trial, randomness="different")(images, free)
    return together


def sent_gradients(
    send: GradientTransform | None, gradients: dict[str, Tensor], observed: Mapping[str, Tensor], context: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the simulated client would have sent, trial by trial.

    Args:
        send: Of one trial's gradients; None: they are sent as they are.
        gradients: Parameter name to `[trials, *shape]`.
        observed: Parameter name to `[*shape]`.
        context: The victim's context.

    Returns:
        Parameter name to `[trials, *shape]`.
    """
    if send is None:
        return gradients
    if len(next(iter(gradients.values()))) == 1:
        alone = send({name: value[0] for name, value in gradients.items()}, observed, context)
        return {name: value[None] for name, value in alone.items()}
    together: dict[str, Tensor] = vmap(lambda trial: send(trial, observed, context))(gradients)
    return together


@dataclass(frozen=True)
class Objective:
    """A fixed set of terms.

    Attributes:
        simulate: The simulated client's loss.
        matching: Gradient distances that count now.
        priors: Image priors that count now.
        parametrisation: How variables make up the images; other variables are free.
        send: What the attacker does to simulated gradients before it compares them; None for nothing.
    """

    simulate: Simulator
    matching: Sequence[MatchingTerm]
    priors: Sequence[PriorTerm]
    parametrisation: Parametrisation
    send: GradientTransform | None = None

    @property
    def names(self) -> list[str]:
        """The terms in the order of their losses."""
        return [term.name for term in self.matching] + [term.name for term in self.priors]

    def losses(
        self,
        values: Mapping[str, Tensor],
        observed: Mapping[str, Tensor],
        context: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
    ) -> Tensor:
        """Every term of one victim, unweighted.

        Args:
            values: The variables, `[trials, ...]`.
            observed: The victim's observed gradients by parameter name.
            context: The victim's context.
            parameters: The matched parameters by name.

        Returns:
            `[terms, trials]`.
        """
        images = self.parametrisation.images(values)
        free = {name: value for name, value in values.items() if name not in self.parametrisation.variables}
        return self.losses_of(images, free, observed, context, parameters)

    def losses_of(
        self,
        images: Tensor,
        free: Mapping[str, Tensor],
        observed: Mapping[str, Tensor],
        context: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
    ) -> Tensor:
        """As `losses`, of images `[trials, batch, 3, height, width]` and of the free variables."""
        terms = []
        if self.matching:
            gradients = parameter_gradients(self.simulate, parameters, images, context, free)
            gradients = sent_gradients(self.send, gradients, observed, context)
            terms += [term.value(gradients, observed, images, {**context, **free}) for term in self.matching]
        terms += [term.value(images, {**context, **free}) for term in self.priors]
        return torch.stack(terms)


@dataclass(frozen=True)
class StepSettings:
    """What changes from step to step besides the variables; scalars.

    Attributes:
        rates: Learning rate of each variable, by name.
        first_corrections: Adam's bias correction of the first moment of each variable.
        second_corrections: The same of the second moment.
        weights: Weight of each active term, by name.
    """

    rates: Mapping[str, Tensor]
    first_corrections: Mapping[str, Tensor]
    second_corrections: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """Adam's step for a fixed set of terms.

    Attributes:
        objective: The terms.
        variables: Every variable by name; their learning rates come with the settings.
    """

    objective: Objective
    variables: Mapping[str, Variable]

    @property
    def names(self) -> list[str]:
        """The terms in the order of their losses."""
        return self.objective.names

    def __call__(
        self,
        moving: Moving,
        settings: StepSettings,
        observed: Mapping[str, Tensor],
        context: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
    ) -> tuple[Moving, Tensor]:
        """Takes one step.

        Args:
            moving: Variables and moments, `[victims, trials, ...]`.
            settings: Learning rates, bias corrections, weights.
            observed: Parameter name to `[victims, *shape]`.
            context: Name to `[victims, ...]`.
            parameters: The matched parameters by name, shared by all victims.

        Returns:
            The new variables and moments, and the losses `[victims, terms, trials]` before the step.
        """
        weights = torch.stack([settings.weights[name] for name in self.names])

        def weighted(
            values: Mapping[str, Tensor], observed: Mapping[str, Tensor], context: Mapping[str, Tensor]
        ) -> tuple[Tensor, Tensor]:
            losses = self.objective.losses(values, observed, context, parameters)
            return (weights[:, None] * losses).sum(), losses

        slope = grad(weighted, has_aux=True)
        if len(next(iter(moving.values.values()))) == 1:
            gradients, losses = slope(_first(moving.values), _first(observed), _first(context))
            gradients, losses = {name: value[None] for name, value in gradients.items()}, losses[None]
        else:
            gradients, losses = vmap(slope, randomness="different")(moving.values, dict(observed), dict(context))
        return self.updated(moving, gradients, settings), losses

    def updated(self, moving: Moving, gradients: Mapping[str, Tensor], settings: StepSettings) -> Moving:
        """The variables and moments after a step along given gradients, by name, of the weighted sum."""
        following = Moving(dict(moving.values), dict(moving.first), dict(moving.second))
        for name, variable in self.variables.items():
            optimiser, gradient = variable.optimiser, gradients[name]
            if optimiser is None:
                continue
            if optimiser.signed:
                gradient = gradient.sign()
            first = torch.lerp(gradient, moving.first[name], optimiser.first_moment)
            second = optimiser.second_moment * moving.second[name] + (1 - optimiser.second_moment) * gradient.square()
            size = second.sqrt() / settings.second_corrections[name].sqrt() + _EPSILON
            value = moving.values[name] - settings.rates[name] / settings.first_corrections[name] * first / size
            following.values[name] = value if variable.box is None else value.clamp(*variable.box)
            following.first[name], following.second[name] = first, second
        return following


def _first(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[0] for name, value in group.items()}
