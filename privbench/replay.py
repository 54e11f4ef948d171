"""The client played again at a guess: which update it would have sent, and how much of the observed one that explains.

Unrolled local training after Dimitrov et al. ("Data Leakage in Federated Averaging", TMLR 2022, arXiv 2206.12395).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from privbench.adversary import Simulation
from privbench.core import LocalTraining, ModelInput, Observation
from privbench.core.weight_delta import normalised_steps
from privbench.inversion import Simulator
from privbench.models import client_loss

__all__ = ["Agreement", "agreement", "energy_shares", "explained_alone", "explained_share", "mean_gradient", "unrolled"]

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


def mean_gradient(
    simulation: Simulation,
    training: LocalTraining,
    images: Tensor,
    labels: Tensor,
    known: Mapping[str, Tensor] | None = None,
    trains: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """What the update of a simulated client that trains says of the gradient, in the form of `Observation.gradients`.

    Args:
        simulation: The client's model before training, and what happens to its images.
        training: What it does. Mini-batches are taken in the order of the images.
        images: `[batch, 3, height, width]` in [0, 1], or `[epochs * batch, ...]` where epochs have candidates of their own.
        labels: `[batch]` int64.
        known: As in `Simulation.loss`.
        trains: Names of the parameters that are trained; None: all.

    Returns:
        Parameter name to `[*shape]`, differentiable in the images.
    """
    every = simulation.model.named_parameters()
    start = {name: value.detach() for name, value in every if trains is None or name in trains}
    weights, state = dict(start), _State()
    for part, chosen in _parts(training, len(labels), len(images)):

        def loss(parameters: dict[str, Tensor], part: Tensor = part, chosen: Tensor = chosen) -> Tensor:
            return simulation.loss(images[part], labels[chosen], known, parameters)

        gradients: dict[str, Tensor] = torch.func.grad(loss)(weights)
        weights = state.step(training, weights, gradients)
    scale = training.learning_rate * training.gradient_weight
    return {name: (start[name] - weights[name]) / scale for name in start}


class _State:
    """Of the simulated optimiser, as torch's own ones have it."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}
        self.count = 0

    def step(
        self, training: LocalTraining, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        self.count += 1
        moved = self._adam if training.optimiser == "adamw" else self._sgd
        # Weight decay is the same for every image; what it adds is taken off the observed update, so it is left out here.
        return {
            name: value - training.learning_rate * moved(training, name, gradients[name]) for name, value in weights.items()
        }

    def _sgd(self, training: LocalTraining, name: str, gradient: Tensor) -> Tensor:
        decay = training.momentum if training.optimiser == "momentum" else 0.0
        self.first[name] = gradient if name not in self.first else decay * self.first[name] + gradient
        return self.first[name]

    def _adam(self, _training: LocalTraining, name: str, gradient: Tensor) -> Tensor:
        one, two = _BETAS
        self.first[name] = one * self.first.get(name, torch.zeros_like(gradient)) + (1 - one) * gradient
        self.second[name] = two * self.second.get(name, torch.zeros_like(gradient)) + (1 - two) * gradient.square()
        first, second = self.first[name] / (1 - one**self.count), self.second[name] / (1 - two**self.count)
        # The tiny summand keeps the root's derivative finite at zero.
        return first / ((second + 1e-30).sqrt() + _EPSILON)


def _parts(training: LocalTraining, size: int, candidates: int) -> Sequence[tuple[Tensor, Tensor]]:
    """For every step, the places of its images among the candidates and of their labels."""
    batches = torch.arange(size).tensor_split(training.batches)
    steps = []
    for step in range(training.steps):
        epoch, number = divmod(step, training.batches)
        offset = epoch * size if candidates > size else 0
        steps.append((batches[number] + offset, batches[number]))
    return steps


def unrolled(simulation: Simulation, training: LocalTraining) -> Simulator:
    """The simulated client as the engine takes it: a function whose gradient in the parameters is that of the whole training.

    Args:
        simulation: The client before training.
        training: What it does.
    """

    def linear(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        behind = mean_gradient(simulation, training, images, context["labels"], context, parameters)
        return torch.stack([(value * behind[name]).sum() for name, value in parameters.items()]).sum()

    return linear


def explained_share(observation: Observation, simulation: Simulation, images: Tensor, labels: Tensor) -> float:
    """How much of the observed update a guess explains: 1 less the relative squared residual, of the parameters observed.

    Where a delta's learning rate is not known, its size is fitted.

    Args:
        observation: What was seen.
        simulation: What the adversary believes of this client, from `simulate`.
        images: `[batch, 3, height, width]` in [0, 1], the guess.
        labels: `[batch]` int64, in the order of the images.

    Returns:
        1 for the client's own images, near 0 or below for others; a plain mean over nothing is never taken.
    """
    return agreement(observation, simulation, images, labels).explained


class Agreement(NamedTuple):
    """How an observed update and that of a guess agree.

    Attributes:
        explained: As `explained_share` returns it.
        cosine: The mean cosine similarity over the parameters observed, from -1 to 1; a parameter without any gradient counts
            as 0. It falls more slowly with small errors of the pixels, and shows a blurred or a noisy image.
    """

    explained: float
    cosine: float


def agreement(observation: Observation, simulation: Simulation, images: Tensor, labels: Tensor) -> Agreement:
    """Plays the client again at a guess and compares what it would have sent with what was observed.

    Args:
        observation: What was seen.
        simulation: What the adversary believes of this client, from `simulate`.
        images: `[batch, 3, height, width]` in [0, 1], the guess.
        labels: `[batch]` int64, in the order of the images.
    """
    behind, observed = _replayed(observation, simulation, images, labels)
    product, size, total = list[float](), list[float](), list[float]()
    for name, value in behind.items():
        simulated, seen = value.double().flatten(), observed[name].double().flatten()
        product.append(float(simulated @ seen))
        size.append(float(simulated @ simulated))
        total.append(float(seen @ seen))
    cosines = [
        one / math.sqrt(two * three) if two * three > 0 else 0.0 for one, two, three in zip(product, size, total, strict=True)
    ]
    cosine = sum(cosines) / max(len(cosines), 1)
    both, whole = sum(product), sum(total)
    if whole == 0 or sum(size) == 0:
        return Agreement(0.0, cosine)
    if observation.kind == "delta" and observation.training is None:
        return Agreement(max(both, 0.0) ** 2 / (sum(size) * whole), cosine)
    return Agreement(1 - (sum(size) - 2 * both + whole) / whole, cosine)


def energy_shares(simulation: Simulation, names: Collection[str], images: Tensor, labels: Tensor) -> Tensor:
    """How the energy of a batch's gradient is divided among its images: the squared norms of the gradients of each alone.

    Args:
        simulation: The client's model; nothing of the defense but what is part of the model.
        names: Of the parameters whose gradient was sent.
        images: `[batch, 3, height, width]`, what the model was fed.
        labels: `[batch]` int64.

    Returns:
        `[batch]` shares, which sum to 1.
    """
    own = _own_gradients(simulation, names, images, labels)
    sizes = torch.stack([torch.stack([value.square().sum() for value in one.values()]).sum() for one in own])
    return sizes / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)


def explained_alone(
    simulation: Simulation, names: Collection[str], guesses: Tensor, images: Tensor, labels: Tensor
) -> list[float]:
    """Image by image, the share of the gradient of an image alone that its own reconstruction explains.

    The gradient is the plain one: neither what a defense does to a batch nor to a gradient is simulated.

    Args:
        simulation: The client's model; nothing of the defense but what is part of the model.
        names: Of the parameters whose gradient was sent.
        guesses: `[batch, 3, height, width]`, the reconstruction that is paired with each image.
        images: `[batch, 3, height, width]`, the private images.
        labels: `[batch]` int64, the true ones.

    Returns:
        1 for an image that is found, near 0 or below for another; 0 where the image has no gradient.
    """
    true, guessed = (_own_gradients(simulation, names, each, labels) for each in (images, guesses))
    shares = []
    for one, other in zip(true, guessed, strict=True):
        whole = sum(float(value.double().square().sum()) for value in one.values())
        missed = sum(float((other[name] - value).double().square().sum()) for name, value in one.items())
        shares.append(1 - missed / whole if whole > 0 else 0.0)
    return shares


def _own_gradients(simulation: Simulation, names: Collection[str], images: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """The plain gradient of each image alone, with the same draws of the model's random layers at every call."""
    parameters = {name: value.detach() for name, value in simulation.model.named_parameters() if name in names}

    def gradient(image: Tensor, label: Tensor) -> dict[str, Tensor]:
        own = torch.func.grad(lambda values: client_loss(simulation.model, ModelInput(image[None]), label[None], values))(
            parameters
        )
        return {name: value.detach() for name, value in own.items()}

    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        torch.manual_seed(0)
        return [gradient(image, label) for image, label in zip(images, labels, strict=True)]


def _replayed(
    observation: Observation, simulation: Simulation, images: Tensor, labels: Tensor
) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
    """What a client with these images would have sent of the observed parameters, and what was observed."""
    training, observed = observation.training, observation.gradients
    by_steps = training is not None and training.optimiser == "adamw"
    if training is not None and by_steps:
        observed = normalised_steps(observation.update, observation.model_state, training)
    # Dropout of a model in train mode is drawn; the process's own stream stays as it is.
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        torch.manual_seed(0)
        if training is not None and (training.steps > 1 or by_steps):
            with torch.no_grad():
                behind = mean_gradient(simulation, training, images, labels, trains=observed)
        else:
            parameters = {name: value.detach() for name, value in simulation.model.named_parameters() if name in observed}
            behind = torch.func.grad(lambda values: simulation.loss(images, labels, parameters=values))(parameters)
    behind = {name: value.detach() for name, value in behind.items() if name in observed}
    # What is compared entry by entry, where attacks compare one-sidedly, is what would have been sent.
    view = simulation.view
    transform = view.transform_gradient_inside or view.transform_gradient
    if transform is not None and not by_steps:
        behind = transform(behind, {name: observed[name] for name in behind}, view.known)
    return behind, observed
