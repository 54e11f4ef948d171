"""One step of Gauss-Newton on all pixels, solved by LSQR (Paige and Saunders, ACM TOMS 1982) through two products."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, lsqr
from torch import Tensor

from privbench.refinement.update import Update, without

__all__ = ["Point", "Slope", "Variables", "stepped"]

_SHARES = (1.0, 0.5, 0.25)
"""Of a step that are tried."""

_Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
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
    def of(cls, update: Update, fed: Tensor) -> "Point":
        """The point of some images: what of the update is left with the derivatives by the logits that explain most of it."""
        residual, left_out, error = update.fitted(fed)
        return cls(fed, residual, left_out, error, float(error.norm()) / update.total)


@dataclass(frozen=True)
class Variables:
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
    def of(cls, normal: Tensor, spread: Tensor, damping: float) -> "Variables":
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


class Slope(LinearOperator):  # type: ignore[misc]  # scipy has no types
    """The derivative of an update by the variables, and below it the damping of all units.

    Both products go through graphs that are built once: of the gradients by the parameters, and of the gradient by the pixels.
    """

    def __init__(self, update: Update, point: "Point", variables: Variables) -> None:
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
        seen = without(self.left_out, self.update.joined(changes).double())
        return torch.cat([seen, self.variables.damping * units]).detach().cpu().numpy()

    def _rmatvec(self, errors: _Vector) -> _Vector:
        seen, below = torch.split(self._tensor(errors), [len(self.update.observed), self.fed.numel()])
        seen = without(self.left_out, seen)
        # The classifier's bias has the derivatives by the logits as its gradient, which are held fast.
        moving = [
            (down, part)
            for down, part in zip(self.down, self.update.apart(seen.to(self.fed)), strict=True)
            if down.requires_grad
        ]
        pulled = torch.autograd.grad([down for down, _ in moving], self.fed, [part for _, part in moving], retain_graph=True)[0]
        units = (pulled * self.spread).flatten().double() + self.variables.damping * below
        return self.variables.pulled(units).detach().cpu().numpy()

    def _tensor(self, array: _Vector) -> Tensor:
        return torch.from_numpy(np.ravel(array)).to(self.left_out)


def stepped(exact: Update, coarse: Update, now: Point, variables: Variables, iterations: int) -> Point:
    """Where a step of Gauss-Newton leads, or a part of it; the same point where nothing is gained.

    Args:
        exact: The update in float64, by which points are judged.
        coarse: The same in float32, by which the derivative is computed.
        now: Where the step begins.
        variables: What is solved for.
        iterations: Of LSQR.
    """
    slope: Any = Slope(coarse, now, variables)
    wanted = np.concatenate([now.error.cpu().numpy(), np.zeros(now.fed.numel())])
    solved = lsqr(slope, wanted, atol=0, btol=0, conlim=0, iter_lim=iterations)[0]
    step = variables.units(torch.from_numpy(solved).to(now.fed)).view_as(now.fed) * variables.spread
    points = (Point.of(exact, now.fed + share * step) for share in _SHARES)
    return next((point for point in points if point.share < now.share), now)
