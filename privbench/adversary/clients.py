"""What all attacks by gradient matching share: start images, labels, contexts, targets of the engine, reconstructions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from privbench.adversary.finishing import postprocess_reconstruction
from privbench.adversary.simulation import Simulation, believed_gradients, simulate
from privbench.core import (
    AttackerView,
    ComputeOptions,
    Failure,
    Observation,
    Progress,
    Reconstruction,
)
from privbench.inversion import (
    Adam,
    Constant,
    Inversion,
    OutOfRange,
    Parametrisation,
    ParametrisationName,
    Pixels,
    PriorTerm,
    Target,
    group_size,
    parametrisation,
)
from privbench.label_recovery import LabelRule, recover_labels

__all__ = ["Clients", "Start", "matching_group_size", "start_images"]

Start = Literal["uniform", "normal", "grey"]
"""Uniform in [0, 1], normal around mid-grey (std 0.25), or mid-grey with a little noise (0.05)."""


def start_images(start: Start, trials: int, observation: Observation, generator: torch.Generator) -> Tensor:
    """Candidates to start from, `[trials, batch, 3, height, width]` in [0, 1], on the observation's device."""
    shape = (trials, observation.batch_size, *observation.image_shape)
    if start == "uniform":
        images = torch.rand(shape, generator=generator)
    else:
        std = 0.25 if start == "normal" else 0.05
        images = (0.5 + std * torch.randn(shape, generator=generator)).clamp(0, 1)
    return images.to(observation.device)


def matching_group_size(observation: Observation, trials: int, matched: Callable[[str], bool] = lambda _: True) -> int:
    """How many observations like this one the engine attacks best in one step.

    Args:
        observation: One of them.
        trials: Trials of each.
        matched: Whether the gradient of the parameter of this name is matched.
    """
    model = simulate(observation).model
    tokens = trials * observation.batch_size * max(model.patch_count, 1)
    parameters = sum(value.numel() for name, value in observation.gradients.items() if matched(name))
    return group_size(tokens=tokens, parameters=parameters, device=observation.device)


def _kept_in_range(inversion: Inversion) -> list[PriorTerm]:
    """The priors, and where variables may make up pixels outside [0, 1] a penalty on these, strong beside the matching."""
    if isinstance(inversion.parametrisation, Pixels):
        return list(inversion.priors)
    weight = 3 * (sum(term.weight.at(0.0) for term in inversion.matching) or 1.0)
    return [*inversion.priors, PriorTerm("range", Constant(weight), OutOfRange())]


@dataclass(frozen=True)
class Clients:
    """Independent observations of one model, prepared for gradient matching.

    Attributes:
        observations: At least one.
        simulation: Of the first; the model is the same for all, only what the adversary believes differs.
        views: What the adversary believes of each.
        labels: `[batch]` of each, known or recovered.
    """

    observations: Sequence[Observation]
    simulation: Simulation
    views: Sequence[AttackerView]
    labels: Sequence[Tensor]

    @classmethod
    def of(cls, observations: Sequence[Observation], rule: LabelRule = "last-layer") -> "Clients":
        """Simulates each client, and recovers the labels where they are unknown.

        Args:
            observations: At least one.
            rule: How labels are recovered.

        Raises:
            UserError: The rule does not apply, or see `simulate`.
        """
        first = simulate(observations[0])
        views = [first.view, *(simulate(observation).view for observation in observations[1:])]
        weight = first.model.classifier_names()[0]
        labels = [
            recover_labels(observation, weight, rule) if observation.labels is None else observation.labels
            for observation in observations
        ]
        return cls(observations, first, views, labels)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The model's, by name, of which there is an update."""
        sent = self.observations[0].update
        return {name: value for name, value in self.simulation.model.named_parameters() if name in sent}

    @property
    def device(self) -> torch.device:
        """Where the observations lie."""
        return self.observations[0].device

    @property
    def each(self) -> list[tuple[Simulation, Observation]]:
        """What the adversary believes of each client, and what it saw of it."""
        pairs = zip(self.views, self.observations, strict=True)
        return [(Simulation(self.simulation.model, view), observation) for view, observation in pairs]

    def variables(self, name: ParametrisationName, optimiser: Adam) -> Parametrisation:
        """How variables make up the images of these clients."""
        return parametrisation(name, self.simulation.model.image_size, optimiser)

    def _targets(
        self,
        names: Iterable[str],
        starts: Sequence[Tensor],
        contexts: Sequence[Mapping[str, Tensor]] | None = None,
        free: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> list[Target]:
        """The engine's targets.

        Args:
            names: The matched parameters.
            starts: Start images of each.
            contexts: What the simulator needs besides what the view knows; None: the labels.
            free: Where the free variables of each start.
        """
        names = list(names)
        contexts = [{"labels": labels} for labels in self.labels] if contexts is None else contexts
        frees = [{}] * len(self.observations) if free is None else free
        return [
            Target(believed_gradients(view, observation, names), start, {**view.known, **context}, begun)
            for observation, view, start, context, begun in zip(
                self.observations, self.views, starts, contexts, frees, strict=True
            )
        ]

    def invert(
        self,
        inversion: Inversion,
        *,
        start: Start | Sequence[Tensor],
        trials: int,
        generators: Sequence[torch.Generator],
        progress: Progress,
        compute: ComputeOptions,
        contexts: Sequence[Mapping[str, Tensor]] | None = None,
        free: Sequence[Mapping[str, Tensor]] | None = None,
        flags: Sequence[str] = (),
    ) -> list[Reconstruction | Failure]:
        """Runs an inversion for all of them, from start images to what the attack returns (`postprocess_reconstruction`).

        Args:
            inversion: What the attack declares.
            start: Which start images, or those of each, `[trials, batch, 3, height, width]` in [0, 1].
            trials: Trials of each.
            generators: One for each.
            progress: Where to report to.
            compute: How to compute.
            contexts: What the simulator needs of each besides what the view knows; None: the labels.
            free: Where the free variables of each start.
            flags: Remarks on all of them.
        """
        pairs = zip(self.observations, generators, strict=True)
        starts = [start_images(start, trials, *pair) for pair in pairs] if isinstance(start, str) else start
        inversion = replace(inversion, send=self.simulation.view.transform_gradient, priors=_kept_in_range(inversion))
        outcomes = inversion.run(self._targets(inversion.parameters, starts, contexts, free), progress, compute)
        recovered = ["labels-recovered"] if self.observations[0].labels is None else []
        results: list[Reconstruction | Failure] = []
        clients = zip(self.views, self.labels, generators, strict=True)
        for outcome, (view, labels, generator) in zip(outcomes, clients, strict=True):
            if isinstance(outcome, Failure):
                results.append(outcome)
                continue
            found = Reconstruction(
                images=outcome.images,
                labels=labels,
                losses=outcome.losses,
                steps=inversion.steps * trials,
                trials=trials,
                flags=(*recovered, *flags),
            )
            simulation = replace(self.simulation, view=view)
            results.append(postprocess_reconstruction(found, simulation, generator=generator))
        return results
