"""The attacker's copy of the client, rebuilt from an observation alone: the mirror of `client`.

Attacks that simulate the forward pass start here; what the simulation applies depends on the adversary of the threat model.
`Clients` is what all attacks by gradient matching share: labels, contexts, targets of the engine, reconstructions.
`postprocess_reconstruction` is the last thing that an adversary does who knows of a shuffle and not its order: it reads the
order of patches, or of the pixels in them, off the finished picture.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from privbench.core import (
    AttackerView,
    ComputeOptions,
    Defense,
    Failure,
    ModelInput,
    Observation,
    Progress,
    Reconstruction,
    build_defense,
    build_server,
    resolve_defense,
)
from privbench.core.flags import LOWER_BOUND
from privbench.inversion import (
    Adam,
    Constant,
    Inversion,
    OutOfRange,
    Parametrisation,
    ParametrisationName,
    Pixels,
    PriorTerm,
    Simulator,
    Target,
    group_size,
    parametrisation,
)
from privbench.jigsaw import reassembled, unscrambled
from privbench.label_recovery import LabelRule, recover_labels
from privbench.local_updates import training_view
from privbench.models import Victim, build_model, client_loss, forward
from privbench.models.svd_layers import DecorrelatedBatchNorm
from privbench.undo import undone

__all__ = [
    "Clients",
    "Simulation",
    "Start",
    "believed_gradients",
    "matching_group_size",
    "mean_cross_entropy",
    "postprocess_reconstruction",
    "simulate",
    "start_images",
    "with_pixels_in_place",
]

Start = Literal["uniform", "normal", "grey"]
"""Uniform in [0, 1], normal around mid-grey (std 0.25), or mid-grey with a little noise (0.05)."""


@dataclass(frozen=True)
class Simulation:
    """A differentiable stand-in for the client.

    Attributes:
        model: The server's model with the client's weights, in the client's mode, on the observation's device.
        view: What the adversary believes happens between image and model.
    """

    model: Victim
    view: AttackerView

    def logits(
        self, images: Tensor, known: Mapping[str, Tensor] | None = None, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """What the simulated client's model says to candidates.

        Args:
            images: `[batch, 3, height, width]` in [0, 1].
            known: Stands in for `view.known`, where several clients are simulated at once.
            parameters: Stand in for the model's own, by name.

        Returns:
            `[batch, classes]`.
        """
        return self.forward(images, known, parameters)[0]

    def forward(
        self, images: Tensor, known: Mapping[str, Tensor] | None = None, parameters: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The logits, and what the network's layers add to the loss, as `models.forward` has them; arguments of `logits`."""
        return forward(self.model, self._fed(images, known), parameters)

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        known: Mapping[str, Tensor] | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The simulated client's loss of candidates, a scalar.

        Args:
            images: `[batch, 3, height, width]` in [0, 1].
            labels: `[batch]` int64, or `[batch, classes]` probabilities, of the private images.
            known: As in `logits`.
            parameters: As in `logits`.
        """
        return client_loss(self.model, self._fed(images, known), labels, parameters)

    def undone(self, fed: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """From what the client's model was fed back to the client's images, and the remarks on that (`undo.undone`).

        Args:
            fed: `[batch, 3, height, width]`.
        """
        found = undone(self.view, fed)
        return found.images, () if found.complete else (LOWER_BOUND,)

    def _fed(self, images: Tensor, known: Mapping[str, Tensor] | None) -> ModelInput:
        return self.view.fed(ModelInput(images), known)


def simulate(observation: Observation) -> Simulation:
    """Rebuilds model, weights and forward pass from an observation.

    The architecture, changes by the defense included, is the server's own and known to every adversary.

    Raises:
        UserError: The declared model or defense is not known here, or the state does not fit.
    """
    defense: Defense = build_defense(observation.defense or resolve_defense("none"))
    with torch.random.fork_rng(devices=[]):
        model = build_model(observation.model)
    defense.prepare_model(model)
    server = build_server(observation.server)
    if server is not None:
        server.prepare_model(model)
    model.to(observation.device).load_state_dict(dict(observation.model_state))
    if observation.normalisation is not None:
        model.normalise_by(observation.normalisation)
    model.requires_grad_(False)
    model.train(observation.threat_model.model_mode == "train")
    if model.training:
        # Running statistics take no part in train mode, and updating them in place is no pure function.
        torch.func.replace_all_batch_norm_modules_(model)
        for module in model.modules():
            if isinstance(module, DecorrelatedBatchNorm):
                module.track_running_stats = False
    return Simulation(model, training_view(defense.view(model, observation), observation))


def mean_cross_entropy(simulation: Simulation) -> Simulator:
    """The client's loss as the engine takes it, with the labels in the context."""
    return lambda parameters, images, context: simulation.loss(images, context["labels"], context, parameters)


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


def believed_gradients(view: AttackerView, observation: Observation, names: Iterable[str]) -> dict[str, Tensor]:
    """What an adversary compares with: the observed gradients, or where the view has one its estimate of what is behind them.

    Args:
        view: What the adversary believes.
        observation: What it saw.
        names: Of which parameters.
    """
    names = list(names)
    return {name: observation.gradients[name] for name in names} | dict(view.expected(names))


def postprocess_reconstruction(
    reconstruction: Reconstruction, simulation: Simulation, *, generator: torch.Generator
) -> Reconstruction:
    """What an adversary makes of a finished reconstruction of the fed images: patches or pixels in order, findings stated.

    Movable patches are put in order; where there are none, the pixels in them (`with_pixels_in_place`).

    Images whose patches have position rows of their own stand in one order, and their borders decide it together. Patches that
    share the unknown row stand anyhow, anew in each image, because the gradient is blind to their order.

    Args:
        reconstruction: In the order in which the simulated client was fed; its flags are the attack's own.
        simulation: What the adversary believes of this very client.
        generator: Source of the search.

    Returns:
        The same with the view's flags and findings; images and losses too are the same where the adversary knows of nothing
        that is out of place, or has no two patches to tell apart.
    """
    model, view = simulation.model, simulation.view
    movable = view.movable
    if movable is None or model.patch_size is None or movable.sum() < 2:
        found = with_pixels_in_place(replace(reconstruction, inferred=view.inferred), simulation, generator=generator)
    else:
        unknown = view.fed(ModelInput(reconstruction.images)).unknown_positions
        own_rows = unknown is None or not (unknown & movable).any()
        images, order = reassembled(
            reconstruction.images, model.patch_size, movable, generator=generator, jointly=bool(own_rows)
        )
        found = replace(
            reconstruction,
            images=images,
            losses={**reconstruction.losses, "order_cost": order.cost},
            inferred=replace(view.inferred, order=order.undone),
        )
    return replace(found, flags=(*view.flags(found.inferred), *found.flags))


def with_pixels_in_place(
    reconstruction: Reconstruction, simulation: Simulation, *, generator: torch.Generator
) -> Reconstruction:
    """Puts the pixels inside patches in order, where the adversary knows that the client permuted them and not how.

    Args:
        reconstruction: Its patches must be in place, because their borders tell flips and rotations apart.
        simulation: What the adversary believes of this very client.
        generator: Source of the search.

    Returns:
        The same where the adversary knows of no such permutation, or the model has no positions to tell where patches stand.
    """
    model, scrambled = simulation.model, simulation.view.scrambled
    if scrambled is None or model.patch_size is None or model.parts().position is None:
        return reconstruction
    images, undone = unscrambled(reconstruction.images, model.patch_size, scrambled, generator=generator)
    return replace(reconstruction, images=images, inferred=replace(reconstruction.inferred, pixel_order=undone))


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
