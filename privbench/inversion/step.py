"""One optimisation step as a pure function of tensors: objective, its gradient in the images, Adam's update, the box.

All victims of a group take it in one call, each with its own observed gradient and context.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from privbench.core import Send
from privbench.inversion.optimisers import Adam
from privbench.inversion.terms import MatchingTerm, PriorTerm

__all__ = ["Objective", "Simulator", "Step", "parameter_gradients"]

Simulator = Callable[[Mapping[str, Tensor], Tensor, Mapping[str, Tensor]], Tensor]
"""The simulated client's loss, a scalar, of `(parameters, images, context)`.

`parameters` replace the model's own by name; `images` are `[batch, 3, height, width]` in [0, 1]; `context` is what else differs
from victim to victim (labels, masks, orders). A function of its arguments alone, made of torch operations without control flow
that depends on values.
"""

_EPSILON = 1e-8


def parameter_gradients(
    simulate: Simulator, parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Parameter gradients of the simulated client, differentiable in the images by `torch.func`.

    Args:
        simulate: The simulated client's loss.
        parameters: Those with respect to which to differentiate, by name.
        images: `[trials, batch, 3, height, width]`.
        context: The victim's context.

    Returns:
        Parameter name to `[trials, *shape]`.
    """

    def of_trial(trial: Tensor) -> dict[str, Tensor]:
        gradients: dict[str, Tensor] = grad(simulate)(dict(parameters), trial, context)
        return gradients

    if len(images) == 1:
        return {name: value[None] for name, value in of_trial(images[0]).items()}
    together: dict[str, Tensor] = vmap(of_trial, randomness="different")(images)
    return together


def _sent(
    send: Send | None, gradients: dict[str, Tensor], observed: Mapping[str, Tensor], context: Mapping[str, Tensor]
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
        send: What the attacker does to simulated gradients before it compares them; None for nothing.
    """

    simulate: Simulator
    matching: Sequence[MatchingTerm]
    priors: Sequence[PriorTerm]
    send: Send | None = None

    @property
    def names(self) -> list[str]:
        """The terms in the order of their weights and losses."""
        return [term.name for term in self.matching] + [term.name for term in self.priors]

    def losses(
        self, images: Tensor, observed: Mapping[str, Tensor], context: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
    ) -> Tensor:
        """Every term of one victim, unweighted.

        Args:
            images: `[trials, batch, 3, height, width]` in [0, 1].
            observed: The victim's observed gradients by parameter name.
            context: The victim's context.
            parameters: The matched parameters by name.

        Returns:
            `[terms, trials]`.
        """
        values = []
        if self.matching:
            gradients = parameter_gradients(self.simulate, parameters, images, context)
            gradients = _sent(self.send, gradients, observed, context)
            values += [term.distance(gradients, observed) for term in self.matching]
        values += [term.prior(images) for term in self.priors]
        return torch.stack(values)


@dataclass(frozen=True)
class Step:
    """Adam's step for a fixed set of terms.

    Attributes:
        objective: The terms.
        optimiser: Its decay rates, and whether gradients are signed; the learning rate comes with the settings.
    """

    objective: Objective
    optimiser: Adam

    @property
    def names(self) -> list[str]:
        """The terms in the order of their weights and losses."""
        return self.objective.names

    def __call__(
        self,
        images: Tensor,
        first: Tensor,
        second: Tensor,
        settings: Tensor,
        observed: Mapping[str, Tensor],
        context: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Takes one step.

        Args:
            images: `[victims, trials, batch, 3, height, width]` in [0, 1].
            first: Adam's first moments, the same shape.
            second: Adam's second moments, the same shape.
            settings: Learning rate, the two bias corrections of Adam, then one weight per term.
            observed: Parameter name to `[victims, *shape]`.
            context: Name to `[victims, ...]`.
            parameters: The matched parameters by name, shared by all victims.

        Returns:
            New images, new moments, and the losses `[victims, terms, trials]` before the step.
        """

        def weighted(images: Tensor, observed: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            losses = self.objective.losses(images, observed, context, parameters)
            return (settings[3:, None] * losses).sum(), losses

        slope = grad(weighted, has_aux=True)
        if len(images) == 1:
            alone = slope(images[0], _first(observed), _first(context))
            gradient, losses = alone[0][None], alone[1][None]
        else:
            gradient, losses = vmap(slope, randomness="different")(images, dict(observed), dict(context))
        optimiser = self.optimiser
        if optimiser.signed:
            gradient = gradient.sign()
        first = torch.lerp(gradient, first, optimiser.first_moment)
        second = optimiser.second_moment * second + (1 - optimiser.second_moment) * gradient.square()
        size = second.sqrt() / settings[2].sqrt() + _EPSILON
        images = (images - settings[0] / settings[1] * first / size).clamp(0, 1)
        return images, first, second, losses


def _first(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[0] for name, value in group.items()}
