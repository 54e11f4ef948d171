"""All patches of a batch together, from the whole update: Gauss-Newton on every pixel.

Where a token's own gradient is small, a closed form of the first block gives its patch badly, and through the attention its
error spreads to the other patches of its image. The gradients of all layers depend on all patches, and are far more equations
than there are pixels. What the rounding of the client's softmax may have changed is left out of them: of a label that the model
is sure of it is most of what float32 loses. Each step is solved by LSQR (Paige and Saunders, ACM TOMS 1982), preconditioned by
a random sketch of the derivative (Avron, Maymounkov and Toledo, SIAM J. Sci. Comput. 2010) where the pixels are few enough for
a matrix, else with pixels in units of how badly their patch is known, so that what is known well moves least. Ours.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, lsqr
from torch import Tensor, nn

from privbench.adversary import Simulation, residual_loss
from privbench.core import ModelInput, Observation, Progress
from privbench.core.patches import from_patches, to_patches

__all__ = ["refined", "rest_of", "unexplained"]

_ITERATIONS = (40, *7 * (100,))
"""Of LSQR without a sketch, step by step: little is linear, so that many short steps lead further than few long ones."""
_LINEAR = 1e-4
"""Relative error of the update from which the derivative is near enough to that at the true images to be sketched."""
_BEFORE = 4
"""Steps without a sketch that are taken to come there."""
_SKETCHED = 25
"""Of LSQR in a step with a sketch."""
_DAMPINGS = (1e4, 1e3, 1e2, 1e1)
"""Of the steps with a sketch, one after another, in units of float32's rounding: the directions that hardly show come last."""
_TURNS = 3
"""Steps of one damping, at most."""
_GAIN = 0.9
"""Share of the error that a step must fall below for another one of the same damping."""
_DENSE = 8192
"""Pixels of a batch, three numbers each, up to which the derivative is sketched: a matrix of so many rows and columns."""
_WORK = 1e10
"""The same times the entries of the update: two images of 32 pixels and 1.4 million parameters are two minutes on one core."""
_OVER = 2
"""Rows of the sketch for each pixel."""
_TANGENTS = 48
"""Pixels whose derivatives are computed together."""
_NEAR = 1e-2
"""Relative error of the update up to which a step is worth taking; further off something else is wrong than a few patches."""
_ROUNDING = 5e-7
"""Relative error of an update in float32, but for its softmax: 5.0e-7 to 6.3e-7 of four pairs of photos."""
_EXACT = 2 * _ROUNDING
"""Relative error of the update at which nothing is left to do."""
_SHARES = (1.0, 0.5, 0.25)
"""Of a step that are tried."""
_CLASSES = 3
"""Classes of an image whose derivatives are told apart."""
_PARALLEL = 1e-9
"""Singular values below this share of the largest are of no direction of their own."""

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
        return every.sum(dim=0), left[:, kept], _without(left[:, kept], observed)

    def joined(self, gradients: Iterable[Tensor]) -> Tensor:
        """All gradients in one vector."""
        return torch.cat([(one / size).flatten() for one, size in zip(gradients, self.sizes, strict=True)])

    def apart(self, joined: Tensor) -> list[Tensor]:
        """The transpose of `joined`."""
        parts = torch.split(joined, [one.numel() for one in self.parameters.values()])
        every = zip(parts, self.parameters.values(), self.sizes, strict=True)
        return [part.view_as(one) / size for part, one, size in every]

    def sketch(self, fed: Tensor, residual: Tensor, told: Callable[[int, int], None]) -> Tensor:
        """The derivative by all pixels, its entries added up in a few sums with random signs: `[sums, pixels]`.

        Args:
            fed: Where, `[images, 3, height, width]`.
            residual: `[images, classes]`, derivatives by the logits, held fast.
            told: Is told how many of how many pixels are done.
        """
        pixels, rows = fed[0].numel(), min(len(self.observed), _OVER * fed.numel())
        signs = torch.randint(2, self.observed.shape, generator=torch.Generator().manual_seed(0))
        weights = [weight.flatten() for weight in self.apart((2 * signs - 1).to(self.observed))]
        fixed = {name: parameter.detach() for name, parameter in self.parameters.items()}
        sketched = self.observed.new_zeros(rows, fed.numel())
        for one in range(len(fed)):
            image, context = fed[one : one + 1].to(self.observed), {"residual": residual[one : one + 1].to(self.observed)}

            def loss(parameters: Mapping[str, Tensor], image: Tensor, context: Mapping[str, Tensor] = context) -> Tensor:
                return residual_loss(self.simulation)(parameters, image, context)

            gradients = partial(torch.func.grad(loss), fixed)

            def along(tangent: Tensor, image: Tensor = image, gradients: Callable[..., Any] = gradients) -> dict[str, Tensor]:
                changes: dict[str, Tensor] = torch.func.jvp(gradients, (image,), (tangent,))[1]
                return changes

            for start in range(0, pixels, _TANGENTS):
                told(one * pixels + start, fed.numel())
                chosen = torch.arange(start, min(start + _TANGENTS, pixels), device=fed.device)
                tangents = nn.functional.one_hot(chosen, pixels).to(image).view(-1, *image.shape)
                with warnings.catch_warnings(action="ignore", category=FutureWarning):
                    # torch loads its forward-mode derivatives by a function that it has deprecated.
                    changes = torch.func.vmap(along)(tangents)
                sums = image.new_zeros(len(chosen), rows)
                begin = 0
                for name, weight in zip(fixed, weights, strict=True):
                    _add(sums, begin, changes[name].flatten(1), weight)
                    begin += len(weight)
                sketched[:, one * pixels + chosen] = sums.T
        return sketched


def _add(sums: Tensor, begin: int, values: Tensor, weights: Tensor) -> None:
    """Adds `[n, entries]`, weighed, to `[n, rows]`: the first entry in row `begin`, and from the last row on to the first."""
    rows, done = sums.shape[1], 0
    while done < len(weights):
        row = (begin + done) % rows
        length = min(rows - row, len(weights) - done)
        sums[:, row : row + length].addcmul_(values[:, done : done + length], weights[done : done + length])
        done += length


@dataclass(frozen=True)
class _Variables:
    """What LSQR solves for: pixels in units of `spread`, turned so that all directions of the derivative are alike.

    Attributes:
        spread: Shape of the images.
        root: `[pixels, pixels]`, upper triangular, of the sketch's normal matrix; None: not turned.
        damping: Weight of each unit.
    """

    spread: Tensor
    root: Tensor | None = None
    damping: float = 0.0

    @classmethod
    def of(cls, normal: Tensor, spread: Tensor, damping: float) -> "_Variables":
        """Turned by a sketch's normal matrix in units, `[pixels, pixels]`."""
        damped = normal + damping**2 * torch.eye(len(normal)).to(normal)
        return cls(spread, torch.linalg.cholesky(damped, upper=True), damping)

    def units(self, variables: Tensor) -> Tensor:
        """`[pixels]`, how far they move each pixel, in units."""
        if self.root is None:
            return variables
        units: Tensor = torch.linalg.solve_triangular(self.root, variables[:, None], upper=True)[:, 0]
        return units

    def pulled(self, units: Tensor) -> Tensor:
        """The transpose of `units`."""
        if self.root is None:
            return units
        variables: Tensor = torch.linalg.solve_triangular(self.root.T, units[:, None], upper=False)[:, 0]
        return variables


class _Slope(LinearOperator):  # type: ignore[misc]  # scipy has no types
    """The derivative of an update by the variables, and below it the damping of all units.

    Both products go through graphs that are built once: of the gradients by the parameters, and of the gradient by the pixels.
    """

    def __init__(self, update: _Update, point: "_Point", variables: _Variables) -> None:
        super().__init__(np.float64, (len(update.observed) + point.fed.numel(), point.fed.numel()))
        self.update, self.variables, self.left_out = update, variables, point.left_out
        self.spread = variables.spread.to(update.observed)
        self.fed, residual = point.fed.to(update.observed).requires_grad_(), point.residual.to(update.observed)
        loss, wanted = update.linear(self.fed, residual), list(update.parameters.values())
        self.down = torch.autograd.grad(loss, wanted, create_graph=True)
        self.across = torch.autograd.grad(update.linear(self.fed, residual), self.fed, create_graph=True)[0]

    def _matvec(self, variables: _Vector) -> _Vector:
        units = self.variables.units(self._tensor(variables))
        moved = units.to(self.fed).view_as(self.fed) * self.spread
        wanted = list(self.update.parameters.values())
        changes = torch.autograd.grad(self.across, wanted, moved, retain_graph=True, allow_unused=True, materialize_grads=True)
        seen = _without(self.left_out, self.update.joined(changes).double())
        return torch.cat([seen, self.variables.damping * units]).cpu().numpy()

    def _rmatvec(self, errors: _Vector) -> _Vector:
        seen, below = torch.split(self._tensor(errors), [len(self.update.observed), self.fed.numel()])
        seen = _without(self.left_out, seen)
        # The classifier's bias has the derivatives by the logits as its gradient, which are held fast.
        moving = [
            (down, part)
            for down, part in zip(self.down, self.update.apart(seen.to(self.fed)), strict=True)
            if down.requires_grad
        ]
        pulled = torch.autograd.grad([down for down, _ in moving], self.fed, [part for _, part in moving], retain_graph=True)[0]
        units = (pulled * self.spread).flatten().double() + self.variables.damping * below
        return self.variables.pulled(units).cpu().numpy()

    def _tensor(self, array: _Vector) -> Tensor:
        return torch.from_numpy(np.ravel(array)).to(self.left_out)


def _without(directions: Tensor, vector: Tensor) -> Tensor:
    return vector - directions @ (directions.T @ vector)


@dataclass(frozen=True)
class _Point:
    """Images, and what they leave of the update.

    Attributes:
        fed: `[images, 3, height, width]` float64. Some pixels may have left [0, 1]: cut off on the way, they would leave others
            wrong that made up for them.
        residual: `[images, classes]`, derivatives of the loss by the logits.
        left_out: `[entries, directions]`, what other derivatives by the logits would explain.
        error: `[entries]`, the rest.
        share: Norm of the error, relative to the update's.
    """

    fed: Tensor
    residual: Tensor
    left_out: Tensor
    error: Tensor
    share: float

    @classmethod
    def of(cls, update: _Update, fed: Tensor) -> "_Point":
        residual, left_out, error = update.fitted(fed)
        return cls(fed, residual, left_out, error, float(error.norm()) / update.total)


def _stepped(exact: _Update, coarse: _Update, now: _Point, variables: _Variables, iterations: int) -> _Point:
    """Where a step of Gauss-Newton leads, or a part of it; the same point where nothing is gained."""
    slope: Any = _Slope(coarse, now, variables)
    wanted = np.concatenate([now.error.cpu().numpy(), np.zeros(now.fed.numel())])
    solved = lsqr(slope, wanted, atol=0, btol=0, conlim=0, iter_lim=iterations)[0]
    step = variables.units(torch.from_numpy(solved).to(now.fed)).view_as(now.fed) * variables.spread
    points = (_Point.of(exact, now.fed + share * step) for share in _SHARES)
    return next((point for point in points if point.share < now.share), now)


def _normal(sketch: Tensor, spread: Tensor) -> Tensor:
    """`[pixels, pixels]` float64, the normal matrix of a sketch by pixels, in units."""
    scaled = sketch.double() * spread.flatten()
    return scaled.T @ scaled


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


def refined(
    simulation: Simulation, observation: Observation, fed: Tensor, labels: Tensor, spread: Tensor, progress: Progress
) -> Tensor:
    """Solves for all pixels of a batch, from images that are nearly right.

    Args:
        simulation: What the adversary believes of this client; where that moves or mixes images nothing is done.
        observation: What it saw.
        fed: `[images, 3, height, width]`.
        labels: `[images]` int64.
        spread: `[images, patches]`, about how far the pixels of each patch are off.
        progress: Is told of every step.

    Returns:
        Images that explain the update better, or the same ones.
    """
    size = simulation.model.patch_size
    if size is None or not _are_fed_as_they_are(simulation, fed):
        return fed
    # Errors are small differences, for which float32 is too coarse; for the direction of a step it is enough.
    exact, coarse = (_Update(simulation, observation, labels, dtype) for dtype in (torch.float64, torch.float32))
    now = _Point.of(exact, fed.double())
    if not now.share < _NEAR:
        return fed
    units = from_patches(spread[..., None, None, None].expand_as(to_patches(fed, size)), *fed.shape[-2:]).double()
    is_sketched = fed.numel() <= _DENSE and fed.numel() * len(exact.observed) <= _WORK
    plain = _ITERATIONS[: _BEFORE if is_sketched else None]
    for number, iterations in enumerate(plain):
        if now.share < (_LINEAR if is_sketched else _EXACT):
            break
        progress.report(number, len(plain), "refinement", {"unexplained": now.share})
        before, now = now, _stepped(exact, coarse, now, _Variables(units), iterations)
        if now is before:
            break
    if is_sketched and now.share > _EXACT:
        normal = _normal(coarse.sketch(now.fed, now.residual, partial(progress.report, phase="sketch")), units)
        for number, damping in enumerate(_DAMPINGS):
            variables = _Variables.of(normal, units, damping * _ROUNDING * exact.total / len(exact.observed) ** 0.5)
            for turn in range(_TURNS):
                progress.report(_TURNS * number + turn, _TURNS * len(_DAMPINGS), "refinement", {"unexplained": now.share})
                before, now = now, _stepped(exact, coarse, now, variables, _SKETCHED)
                if now.share > _GAIN * before.share:
                    break
    return fed if torch.equal(now.fed, fed.double()) else now.fed.clamp(0, 1).to(fed)
