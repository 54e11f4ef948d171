"""An update as one vector, what images explain of it, and the derivatives by the logits that explain it best."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from privbench.adversary import Simulation, residual_loss
from privbench.core import ModelInput, Observation

__all__ = ["Update", "are_fed_as_they_are", "rest_of", "unexplained", "without"]

_CLASSES = 3
"""Classes of an image whose derivatives are told apart."""
_PARALLEL = 1e-9
"""Singular values below this share of the largest are of no direction of their own."""


class Update:
    """What was sent as one vector, all parameters with the same weight.

    Args:
        simulation: What the adversary believes of this client; its model is copied.
        observation: What it saw.
        labels: `[images]` int64.
        dtype: In which gradients are computed.
    """

    def __init__(self, simulation: Simulation, observation: Observation, labels: Tensor, dtype: torch.dtype) -> None:
        self.simulation, self.labels = replace(simulation, model=deepcopy(simulation.model).to(dtype)), labels
        every, given = dict(self.simulation.model.named_parameters()), observation.gradients
        sent = {name: given[name].to(dtype) for name in every if name in given and float(given[name].norm()) > 0}
        self.sizes = [gradient.norm() for gradient in sent.values()]
        self.parameters = {name: every[name].detach().requires_grad_() for name in sent}
        self.observed = self.joined(sent.values())
        self.total = float(self.observed.norm())

    def gradients(self, fed: Tensor) -> tuple[Tensor, ...]:
        """Of images that the model is fed."""
        loss = self.simulation.loss(fed, self.labels, parameters=self.parameters)
        return torch.autograd.grad(loss, list(self.parameters.values()))

    def error(self, fed: Tensor) -> Tensor:
        """What of the observed ones these images do not explain."""
        return self.observed - self.joined(self.gradients(fed))

    def linear(self, fed: Tensor, residual: Tensor) -> Tensor:
        """A loss with given derivatives `[images, classes]` by the logits, as the client's is at the client's images."""
        return residual_loss(self.simulation)(self.parameters, fed, {"residual": residual})

    def fitted(self, fed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The derivatives by the logits that explain the update best.

        Returns:
            `[images, classes]`; `[entries, directions]`, orthonormal: what such derivatives can explain; `[entries]`, the rest.
        """
        logits, penalty = self.simulation.forward(fed, parameters=self.parameters)
        residual = logits.detach().softmax(dim=1) - nn.functional.one_hot(self.labels, logits.shape[1]).to(logits)
        # The classes that matter one by one, the others together.
        classes = residual.abs().topk(min(_CLASSES, residual.shape[1]), dim=1).indices
        others = residual.scatter(1, classes, 0.0)
        directions = [nn.functional.one_hot(column, residual.shape[1]).to(logits) for column in classes.T]
        directions += [others] if len(directions) < residual.shape[1] else []
        wanted = list(self.parameters.values())

        def pulled(value: Tensor) -> Tensor:
            return self.joined(torch.autograd.grad(value, wanted, retain_graph=True, materialize_grads=True))

        columns = torch.stack([pulled(one) for direction in directions for one in (logits * direction).sum(dim=1)], dim=1)
        observed = self.observed if penalty is None else self.observed - pulled(penalty)
        sizes = columns.norm(dim=0).clamp(min=torch.finfo(columns.dtype).tiny)
        left, values, right = torch.linalg.svd(columns / sizes, full_matrices=False)
        kept = values > _PARALLEL * values[0]
        amounts = right[kept].T @ ((left[:, kept].T @ observed) / values[kept]) / sizes
        every = torch.stack(directions) * amounts.view(len(directions), -1, 1)
        return every.sum(dim=0), left[:, kept], without(left[:, kept], observed)

    def joined(self, gradients: Iterable[Tensor]) -> Tensor:
        """All gradients in one vector."""
        return torch.cat([(one / size).flatten() for one, size in zip(gradients, self.sizes, strict=True)])

    def apart(self, joined: Tensor) -> list[Tensor]:
        """The transpose of `joined`."""
        parts = torch.split(joined, [one.numel() for one in self.parameters.values()])
        every = zip(parts, self.parameters.values(), self.sizes, strict=True)
        return [part.view_as(one) / size for part, one, size in every]


def without(directions: Tensor, vector: Tensor) -> Tensor:
    """`[entries]`, a vector less its part along orthonormal directions, `[entries, directions]`."""
    return vector - directions @ (directions.T @ vector)


def are_fed_as_they_are(simulation: Simulation, fed: Tensor) -> bool:
    """Whether the client feeds its model these images unmoved and unmixed, as the adversary believes."""
    return torch.equal(simulation.view.fed(ModelInput(fed), simulation.view.known).images, fed)


def unexplained(simulation: Simulation, observation: Observation, fed: Tensor, labels: Tensor) -> float:
    """What of an update some images leave unexplained, as a share of its norm, all parameters with the same weight.

    Args:
        simulation: What the adversary believes of this client.
        observation: What it saw.
        fed: `[images, 3, height, width]`, all of the batch.
        labels: `[images]` int64.
    """
    update = Update(simulation, observation, labels, torch.float64)
    return float(update.error(fed.double()).norm() / update.observed.norm())


def rest_of(simulation: Simulation, observation: Observation, fed: Tensor, labels: Tensor) -> Observation | None:
    """The update of the one image of a batch that is left when the others are known: the whole less theirs.

    Args:
        simulation: What the adversary believes of this client.
        observation: Of a batch, a mean over its images.
        fed: `[images - 1, 3, height, width]`, the images that are known.
        labels: `[images - 1]` int64, theirs.

    Returns:
        An update of one image, its label unknown; None where the client moves or mixes its images.
    """
    if not are_fed_as_they_are(simulation, fed):
        return None
    known = Update(simulation, observation, labels, torch.float64)
    total, gradients = observation.batch_size, observation.gradients
    theirs = dict(zip(known.parameters, known.gradients(fed.double()), strict=True))
    rest = {
        name: (total * gradient.double() - (total - 1) * theirs[name]).to(gradient) if name in theirs else total * gradient
        for name, gradient in gradients.items()
    }
    return replace(observation.with_gradients(rest), batch_size=1, labels=None)
