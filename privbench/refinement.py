"""All patches of a batch together, from the whole update: Gauss-Newton on every pixel, without a matrix.

Where a token's own gradient is small, a closed form of the first block gives its patch badly, and through the attention its
error spreads to the other patches of its image. The gradients of all layers depend on all patches, and are far more equations
than there are pixels. Each step is solved by LSQR (Paige and Saunders, ACM TOMS 1982), which is stopped early; a product with
the derivative costs a backward pass. Pixels are counted in units of how badly their patch is known, so that what is known well
moves least. Ours.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, lsqr
from torch import Tensor

from privbench.adversary import Simulation
from privbench.core import ModelInput, Observation
from privbench.core.patches import from_patches, to_patches

__all__ = ["refined", "rest_of", "unexplained"]

_ITERATIONS = (40, *7 * (100,))
"""Of LSQR, step by step: little is linear, so that many short steps lead further than few long ones. A minute on one core."""
_NEAR = 1e-2
"""Relative error of the update up to which a step is worth taking; further off something else is wrong than a few patches."""
_EXACT = 5e-6
"""Relative error of the update at which nothing is left to do: ten times the rounding of float32."""
_SHARES = (1.0, 0.5, 0.25)
"""Of a step that are tried."""

_Vector = NDArray[np.float64]


class _Update:
    """What was sent as one vector, all parameters with the same weight."""

    def __init__(self, simulation: Simulation, observation: Observation, labels: Tensor, dtype: torch.dtype) -> None:
        self.simulation, self.labels = replace(simulation, model=deepcopy(simulation.model).to(dtype)), labels
        every, given = dict(self.simulation.model.named_parameters()), observation.gradients
        sent = {name: given[name].to(dtype) for name in every if name in given and float(given[name].norm()) > 0}
        self.sizes = [gradient.norm() for gradient in sent.values()]
        self.parameters = {name: every[name].detach().requires_grad_() for name in sent}
        self.observed = self.joined(sent.values())

    def gradients(self, fed: Tensor, *, create_graph: bool = False) -> tuple[Tensor, ...]:
        """Of images that the model is fed."""
        return torch.autograd.grad(self.loss(fed), list(self.parameters.values()), create_graph=create_graph)

    def error(self, fed: Tensor) -> Tensor:
        """What of the observed ones these images do not explain."""
        return self.observed - self.joined(self.gradients(fed))

    def loss(self, fed: Tensor) -> Tensor:
        """The client's loss."""
        return self.simulation.loss(fed, self.labels, parameters=self.parameters)

    def joined(self, gradients: Iterable[Tensor]) -> Tensor:
        """All gradients in one vector."""
        return torch.cat([(one / size).flatten() for one, size in zip(gradients, self.sizes, strict=True)])

    def apart(self, joined: Tensor) -> list[Tensor]:
        """The transpose of `joined`."""
        parts = torch.split(joined, [one.numel() for one in self.parameters.values()])
        every = zip(parts, self.parameters.values(), self.sizes, strict=True)
        return [part.view_as(one) / size for part, one, size in every]


class _Slope(LinearOperator):  # type: ignore[misc]  # scipy has no types
    """The derivative of an update by the pixels, these in units of `spread`.

    Both products go through graphs that are built once: of the gradients by the parameters, and of the gradient by the pixels.
    """

    def __init__(self, update: _Update, fed: Tensor, spread: Tensor) -> None:
        super().__init__(np.float64, (len(update.observed), fed.numel()))
        self.update, self.spread = update, spread.to(update.observed)
        self.fed = fed.to(update.observed).requires_grad_()
        self.down = update.gradients(self.fed, create_graph=True)
        self.across = torch.autograd.grad(update.loss(self.fed), self.fed, create_graph=True)[0]

    def _matvec(self, units: _Vector) -> _Vector:
        moved = self._tensor(units).view_as(self.fed) * self.spread
        wanted = list(self.update.parameters.values())
        changes = torch.autograd.grad(self.across, wanted, moved, retain_graph=True, allow_unused=True, materialize_grads=True)
        return self._array(self.update.joined(changes))

    def _rmatvec(self, errors: _Vector) -> _Vector:
        pulled = torch.autograd.grad(self.down, self.fed, self.update.apart(self._tensor(errors)), retain_graph=True)[0]
        return self._array(pulled * self.spread)

    def _tensor(self, array: _Vector) -> Tensor:
        return torch.from_numpy(np.ravel(array)).to(self.fed)

    @staticmethod
    def _array(tensor: Tensor) -> _Vector:
        return cast(_Vector, tensor.detach().flatten().cpu().double().numpy())


def _are_fed_as_they_are(simulation: Simulation, fed: Tensor) -> bool:
    return torch.equal(simulation.view.fed(ModelInput(fed), simulation.view.known).images, fed)


def unexplained(simulation: Simulation, observation: Observation, fed: Tensor, labels: Tensor) -> float:
    """What of an update some images leave unexplained, as a share of its norm, all parameters with the same weight.

    Args:
        simulation: What the adversary believes of this client.
        observation: What it saw.
        fed: `[images, 3, height, width]`, all of the batch.
        labels: `[images]` int64.
    """
    update = _Update(simulation, observation, labels, torch.float64)
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
    if not _are_fed_as_they_are(simulation, fed):
        return None
    known = _Update(simulation, observation, labels, torch.float64)
    total, gradients = observation.batch_size, observation.gradients
    theirs = dict(zip(known.parameters, known.gradients(fed.double()), strict=True))
    rest = {
        name: (total * gradient.double() - (total - 1) * theirs[name]).to(gradient) if name in theirs else total * gradient
        for name, gradient in gradients.items()
    }
    return replace(observation.with_gradients(rest), batch_size=1, labels=None)


def refined(simulation: Simulation, observation: Observation, fed: Tensor, labels: Tensor, spread: Tensor) -> Tensor:
    """Solves for all pixels of a batch, from images that are nearly right.

    Args:
        simulation: What the adversary believes of this client; where that moves or mixes images nothing is done.
        observation: What it saw.
        fed: `[images, 3, height, width]`.
        labels: `[images]` int64.
        spread: `[images, patches]`, about how far the pixels of each patch are off.

    Returns:
        Images that explain the update better, or the same ones.
    """
    size = simulation.model.patch_size
    if size is None or not _are_fed_as_they_are(simulation, fed):
        return fed
    # Errors are small differences, for which float32 is too coarse; for the direction of a step it is enough.
    exact, coarse = (_Update(simulation, observation, labels, dtype) for dtype in (torch.float64, torch.float32))
    units = from_patches(spread[..., None, None, None].expand_as(to_patches(fed, size)), *fed.shape[-2:])
    total = float(exact.observed.norm())
    best = fed.double()
    error = exact.error(best)
    if not error.norm() < _NEAR * total:
        return fed
    for iterations in _ITERATIONS:
        slope: Any = _Slope(coarse, best, units)
        solved = lsqr(slope, error.cpu().numpy(), atol=0, btol=0, conlim=0, iter_lim=iterations)[0]
        step = torch.from_numpy(solved).to(best).view_as(best) * units
        share = next((share for share in _SHARES if exact.error(best + share * step).norm() < error.norm()), None)
        if share is None:
            break
        # Pixels that leave [0, 1] are wrong, and so are the others that made up for them: the next step finds both.
        best = (best + share * step).clamp(0, 1)
        error = exact.error(best)
        if error.norm() < _EXACT * total:
            break
    return fed if torch.equal(best, fed.double()) else best.to(fed)
