"""Quadratic assignment: which order makes a table of moments most like a table of weights.

Started from the convex relaxation (Vogelstein et al., "Fast Approximate Quadratic Programming for Graph Matching",
PLOS ONE 2015).
"""

import numpy as np
import scipy

from privbench.jigsaw.borders import Floats
from privbench.jigsaw.placement import Ints

__all__ = ["QuadraticAssignment"]

_RELAXED_STEPS = 15
_ROUNDS = 600
"""Reassignments of a chain."""


class QuadraticAssignment:
    """The order of pixels with the least `Σ weights[k, i, j] moments[k, order[i], order[j]]`: a sum of quadratic assignments.

    `scipy.optimize.quadratic_assignment` takes one pair of matrices, where a patch has itself and its neighbours.
    """

    def __init__(self, weights: Floats, moments: Floats) -> None:
        self.weights, self.moments, self.pixels = weights, moments, weights.shape[-1]

    def cost(self, order: Ints) -> float:
        """Of an order `[pixels]`."""
        return float((self.weights * self._ordered(order)).sum())

    def _ordered(self, order: Ints) -> Floats:
        return self.moments[:, order[:, None], order]

    def relaxed(self) -> Ints:
        """The order nearest to the minimum over doubly stochastic matrices, by Frank-Wolfe from the middle of them."""
        mixed = np.full((self.pixels, self.pixels), 1 / self.pixels)
        for _ in range(_RELAXED_STEPS):
            slope = (self.weights @ mixed @ self.moments.swapaxes(1, 2)).sum(0)
            slope += (self.weights.swapaxes(1, 2) @ mixed @ self.moments).sum(0)
            step = np.eye(self.pixels)[scipy.optimize.linear_sum_assignment(slope)[1]] - mixed
            linear, square = float((slope * step).sum()), float((self.weights * (step @ self.moments @ step.T)).sum())
            mixed = mixed + (1.0 if square <= 0 else min(1.0, -linear / (2 * square))) * step
        return np.asarray(scipy.optimize.linear_sum_assignment(-mixed)[1])

    def reassigned(self, start: Ints, share: float, draws: np.random.Generator) -> Ints:
        """The best order on a walk from `start`: random places are assigned anew given what stands at the others.

        What the chosen places mean to each other is left out, so that a step may cost something; it is taken all the same.
        """
        order, best, least = start, start, self.cost(start)
        for _ in range(_ROUNDS):
            mixed = draws.permutation(self.pixels)
            chosen, kept = np.split(mixed, [max(2, int(share * self.pixels))])
            here, there = order[chosen], order[kept]
            given = self.weights[:, chosen[:, None], kept] @ self.moments[:, here[:, None], there].swapaxes(1, 2)
            given += self.weights[:, kept[:, None], chosen].swapaxes(1, 2) @ self.moments[:, there[:, None], here]
            alone = self.weights[:, chosen, chosen].T @ self.moments[:, here, here]
            order = order.copy()
            order[chosen] = here[scipy.optimize.linear_sum_assignment(given.sum(0) + alone)[1]]
            cost = self.cost(order)
            if cost < least:
                best, least = order, cost
        return best

    def swapped(self, order: Ints) -> Ints:
        """An order that no exchange of two pixels makes better, by taking the best exchange until there is none."""
        order, cost = order.copy(), self.cost(order)
        while True:
            gains = self._exchanges(order)
            one, other = divmod(int(gains.argmin()), self.pixels)
            changed = order.copy()
            changed[[one, other]] = order[[other, one]]
            changed_cost = self.cost(changed)
            # What is left below that is rounding.
            if changed_cost >= cost - 1e-9 * abs(cost):
                return order
            order, cost = changed, changed_cost

    def _exchanges(self, order: Ints) -> Floats:
        """`[pixels, pixels]`: by how much the cost changes where the pixels at two places change places."""
        apart, moments = 1 - np.eye(self.pixels), self._ordered(order)
        weights, products = self.weights * apart, moments * apart
        met = (weights @ products.swapaxes(1, 2) + weights.swapaxes(1, 2) @ products).sum(0)
        change = met + met.T - np.diag(met)[:, None] - np.diag(met)
        # What the two places mean to each other stays, or is turned round.
        change += ((weights + weights.swapaxes(1, 2)) * (products + products.swapaxes(1, 2))).sum(0)
        places, pixels = (np.diagonal(table, axis1=1, axis2=2) for table in (self.weights, moments))
        alone = places.T @ pixels
        return np.asarray(change + alone + alone.T - np.diag(alone)[:, None] - np.diag(alone))


# An order for each patch
