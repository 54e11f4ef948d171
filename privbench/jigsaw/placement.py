"""The order of patches with the most evidence on its borders: a genetic search, growing children from what parents agree on.

After Sholomon, David and Netanyahu, "A Genetic Algorithm-Based Solver for Very Large Jigsaw Puzzles" (CVPR 2013).
"""

import numpy as np
import scipy
from numpy.typing import NDArray

from privbench.jigsaw.borders import Floats

__all__ = ["Grid", "Ints", "PlacementSearch"]

Ints = NDArray[np.int64]

_POPULATION = 24
_PATIENCE = 10
"""Generations without a better order after which the search ends."""
_JITTER = 1.0
"""Standard deviation, in nats, of what makes children differ."""
_SHARED = 4.0
"""Evidence added to a border on which both parents agree; a quarter of it where one parent has it."""
_POLISHED = 8
"""Children of a generation whose patches are assigned anew, a checkerboard's colour at a time."""


class Grid:
    """Places of a grid, row by row, and its borders."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns, self.places = rows, columns, rows * columns
        number = np.arange(self.places).reshape(rows, columns)
        self.left, self.right = number[:, :-1].ravel(), number[:, 1:].ravel()
        self.upper, self.lower = number[:-1].ravel(), number[1:].ravel()
        self.borders = len(self.left) + len(self.upper)

    def evidence(self, orders: Ints, across: Floats, down: Floats) -> Floats:
        """Sum over all borders of `[..., places]` orders."""
        beside = across[orders[..., self.left], orders[..., self.right]].sum(-1)
        below = down[orders[..., self.upper], orders[..., self.lower]].sum(-1)
        return np.asarray(beside + below)

    def shared(self, orders: Ints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """`[orders, patches, patches]` each, across and down: whether two patches are neighbours."""
        chain = np.arange(len(orders))[:, None]
        across = np.zeros((len(orders), self.places, self.places), dtype=bool)
        down = across.copy()
        across[chain, orders[:, self.left], orders[:, self.right]] = True
        down[chain, orders[:, self.upper], orders[:, self.lower]] = True
        return across, down


# Borders


class PlacementSearch:
    """Orders grown from a patch, or around fixed ones; children keep what their parents share (Sholomon et al. 2013)."""

    def __init__(self, grid: Grid, across: Floats, down: Floats, free: NDArray[np.bool_], draws: np.random.Generator) -> None:
        self.grid, self.across, self.down, self.free, self.draws = grid, across, down, free, draws

    def best(self, generations: int) -> Ints:
        """The order with the most evidence, `[places]`."""
        population = self._grown(*self._jittered())
        evidence = self.grid.evidence(population, self.across, self.down)
        stale, record = 0, float(evidence.max())
        for _ in range(generations):
            children = self._children(population, evidence)
            orders = np.unique(np.concatenate([population, children]), axis=0)
            values = self.grid.evidence(orders, self.across, self.down)
            kept = np.argsort(-values, kind="stable")[:_POPULATION]
            population, evidence = orders[kept], values[kept]
            stale, record = (0, float(evidence[0])) if evidence[0] > record + 1e-9 else (stale + 1, record)
            if stale == _PATIENCE:
                break
        return np.asarray(population[evidence.argmax()])

    def _jittered(self) -> tuple[Floats, Floats]:
        shape = (_POPULATION, *self.across.shape)
        across, down = (table + self.draws.normal(0, _JITTER, shape) for table in (self.across, self.down))
        return across, down

    def _children(self, population: Ints, evidence: Floats) -> Ints:
        chosen = self.draws.integers(len(population), size=(2, _POPULATION, 2))
        better = evidence[chosen[..., 0]] > evidence[chosen[..., 1]]
        mother, father = np.where(better, chosen[..., 0], chosen[..., 1])
        across, down = self._jittered()
        pairs = zip(self.grid.shared(population[mother]), self.grid.shared(population[father]), strict=True)
        for table, (hers, his) in zip((across, down), pairs, strict=True):
            table += _SHARED * (hers & his) + _SHARED / 4 * (hers ^ his)
        children = self._grown(across, down)
        for child in children[:_POLISHED]:
            self._polish(child)
        return children

    def _grown(self, across: Floats, down: Floats) -> Ints:
        """Places the patch with the most evidence beside those that stand already, until all stand.

        Args:
            across: `[chains, patches, patches]`, evidence that each chain goes by.
            down: The same, downwards.

        Returns:
            `[chains, places]`.
        """
        canvas = _Canvas(self.grid, across, down, anchored=not self.free.all())
        if self.free.all():
            canvas.start(self.draws.integers(self.grid.places, size=len(across)))
        else:
            for place in np.flatnonzero(~self.free):
                canvas.fix(int(place))
        while canvas.standing < self.grid.places:
            canvas.grow()
        return canvas.orders()

    def _polish(self, order: Ints) -> None:
        """Assigns the free patches of each colour of the checkerboard anew, given the other colour; in place."""
        rows, columns = self.grid.rows, self.grid.columns
        for colour in (0, 1):
            row, column = np.divmod(np.arange(self.grid.places), columns)
            places = np.flatnonzero(((row + column) % 2 == colour) & self.free)
            pieces, evidence = order[places], np.zeros((len(places), len(places)))
            for index, place in enumerate(places):
                if column[place] > 0:
                    evidence[index] += self.across[order[place - 1], pieces]
                if column[place] < columns - 1:
                    evidence[index] += self.across[pieces, order[place + 1]]
                if row[place] > 0:
                    evidence[index] += self.down[order[place - columns], pieces]
                if row[place] < rows - 1:
                    evidence[index] += self.down[pieces, order[place + columns]]
            order[places] = pieces[scipy.optimize.linear_sum_assignment(-evidence)[1]]


class _Canvas:
    """Several orders being grown side by side, on a canvas that is larger than the grid where nothing says where it begins."""

    def __init__(self, grid: Grid, across: Floats, down: Floats, *, anchored: bool) -> None:
        self.grid, self.across, self.down = grid, across, down
        chains = len(across)
        # One place more on each side: a border that nothing is placed in.
        height, width = (grid.rows, grid.columns) if anchored else (2 * grid.rows - 1, 2 * grid.columns - 1)
        self.chains = np.arange(chains)
        self.held = np.full((chains, height + 2, width + 2), -1)
        self.support = np.zeros((*self.held.shape, grid.places))
        self.beside = np.zeros(self.held.shape, dtype=bool)
        self.closed = np.ones(self.held.shape, dtype=bool)
        self.closed[:, 1:-1, 1:-1] = False
        self.used = np.zeros((chains, grid.places), dtype=bool)
        self.first = np.ones((chains, 2), dtype=np.int64)
        self.last = np.tile([height, width], (chains, 1)) if anchored else self.first.copy()
        self.anchored, self.standing = anchored, 0

    def start(self, pieces: Ints) -> None:
        """Puts one piece of each chain into the middle."""
        middle = np.tile([self.grid.rows, self.grid.columns], (len(self.chains), 1))
        self.first, self.last = middle.copy(), middle.copy()
        self._put(middle[:, 0], middle[:, 1], pieces)

    def fix(self, place: int) -> None:
        """Puts the piece of a place where it stands."""
        row, column = divmod(place, self.grid.columns)
        everywhere = np.ones(len(self.chains), dtype=np.int64)
        self._put(everywhere * (row + 1), everywhere * (column + 1), everywhere * place)

    def _put(self, row: Ints, column: Ints, piece: Ints) -> None:
        chain = self.chains
        self.held[chain, row, column] = piece
        self.closed[chain, row, column] = True
        self.used[chain, piece] = True
        self.support[chain, row, column + 1] += self.across[chain, piece]
        self.support[chain, row, column - 1] += self.across[chain, :, piece]
        self.support[chain, row + 1, column] += self.down[chain, piece]
        self.support[chain, row - 1, column] += self.down[chain, :, piece]
        for rows, columns in ((row, column + 1), (row, column - 1), (row + 1, column), (row - 1, column)):
            self.beside[chain, rows, columns] = True
        self.standing += 1

    def grow(self) -> None:
        """Adds one piece to each chain, within a frame of the grid's size."""
        number, height, width = self.held.shape
        open_places = self.beside & ~self.closed & self._inside(0, height, self.grid.rows)[:, :, None]
        open_places &= self._inside(1, width, self.grid.columns)[:, None, :]
        flat = open_places.reshape(number, -1)
        most = int(flat.sum(axis=1).max())
        places = np.argsort(~flat, axis=1, kind="stable")[:, :most]
        support = self.support.reshape(number, -1, self.grid.places)[self.chains[:, None], places]
        support[~np.take_along_axis(flat, places, axis=1)] = -np.inf
        support = np.where(self.used[:, None], -np.inf, support).reshape(number, -1)
        index, piece = np.divmod(support.argmax(axis=1), self.grid.places)
        row, column = np.divmod(places[self.chains, index], width)
        self._put(row, column, piece)
        if not self.anchored:
            taken = np.stack([row, column], axis=1)
            self.first, self.last = np.minimum(self.first, taken), np.maximum(self.last, taken)

    def _inside(self, axis: int, length: int, most: int) -> NDArray[np.bool_]:
        """`[chains, length]`: which rows or columns leave the frame no larger than `most`."""
        number = np.arange(length)
        extent = np.maximum(self.last[:, axis, None], number) - np.minimum(self.first[:, axis, None], number)
        inside: NDArray[np.bool_] = extent < most
        return inside

    def orders(self) -> Ints:
        """`[chains, places]`, once all pieces stand."""
        rows = self.first[:, 0, None, None] + np.arange(self.grid.rows)[:, None]
        columns = self.first[:, 1, None, None] + np.arange(self.grid.columns)
        return np.asarray(self.held[self.chains[:, None, None], rows, columns].reshape(len(self.chains), -1))
