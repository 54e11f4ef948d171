"""Reassembly: putting recovered patches in order by how well their borders fit, without the truth.

A client that permutes patches (naive shuffle, MJP) does not protect what they show; what remains is a jigsaw. Two measures of
border compatibility are combined: Mahalanobis gradient compatibility (Gallagher, "Jigsaw Puzzles with Pieces of Unknown
Orientation", CVPR 2012) and the likelihood ratio of two adjacent patches under a smooth Gaussian image (ours). The solver is
genetic, growing children from what parents agree on (Sholomon, David and Netanyahu, CVPR 2013). Measured against others in
attacks/README.md ("Reassembly").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privbench.core.patches import rearrange, to_patches

__all__ = [
    "Assembly",
    "Measure",
    "border_evidence",
    "gaussian_ratio",
    "mahalanobis_gradient",
    "neighbour_evidence",
    "reassemble",
    "reassembled",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Measure = Callable[[Floats], Floats]
"""From `[patches, 3, size, size]` to the cost `[patches, patches]` of patch `b` standing to the right of patch `a`."""

_CAP = 4.0
"""Least evidence, in nats and per direction, that one border gives against a neighbour: wrong borders are all alike."""
_CLOSE = 4
"""How many of the best neighbours set the scale of a patch's costs."""
_CORRELATION = 8.0
"""Pixels over which the correlation of the Gaussian image falls to 1/e."""
_NOISE = 1e-3
"""White noise in the Gaussian image, as a share of its variance."""
_WEIGHT = 1.2
"""Weight of the mean evidence of all measures: little more than 1, because most of what they see is the same."""
_POPULATION = 24
_PATIENCE = 10
"""Generations without a better order after which the search ends."""
_JITTER = 1.0
"""Standard deviation, in nats, of what makes children differ."""
_SHARED = 4.0
"""Evidence added to a border on which both parents agree; a quarter of it where one parent has it."""
_POLISHED = 8
"""Children of a generation whose patches are assigned anew, a checkerboard's colour at a time."""


@dataclass(frozen=True)
class Assembly:
    """An order of patches.

    Attributes:
        order: `[patches]` int64; place `j` should hold the patch that is now at `order[j]`, as in `core.patches.rearrange`. Or
            `[batch, patches]`, one for each image.
        cost: Mean cost of its borders in nats, negative where they fit better than chance; comparable within one image only.
    """

    order: Tensor
    cost: float

    @property
    def undone(self) -> Tensor:
        """The order that was undone, in the client's form: the place in the image of the patch that is now at each place."""
        return self.order.argsort(dim=-1)


def reassemble(
    patches: Tensor,
    grid: tuple[int, int],
    *,
    generator: torch.Generator,
    movable: Tensor | None = None,
    measures: Sequence[Measure] | None = None,
    generations: int = 30,
) -> Assembly:
    """Orders patches by their borders.

    Args:
        patches: `[patches, 3, size, size]` in [0, 1], size at least 2, row by row as they stand now; or
            `[batch, patches, 3, size, size]`, images that share one order, whose evidence adds up.
        grid: Rows and columns.
        generator: Source of the search.
        movable: `[patches]` bool, the places whose patches may be in a wrong order among themselves; None: all. Where some
            patch is fixed the others are placed around it, otherwise only borders and the frame say where a patch belongs.
        measures: What makes neighbours; None: `mahalanobis_gradient` and `gaussian_ratio`.
        generations: How long the search goes on at most; 0: the best of the orders that it starts from.

    Returns:
        The best order found and its cost. The patches stay as they are where the search finds nothing that costs less.

    Raises:
        ValueError: The number of patches is not that of the grid.
    """
    rows, columns = grid
    images = patches if patches.ndim == 5 else patches[None]
    number = images.shape[1]
    if number != rows * columns or (movable is not None and movable.shape != (number,)):
        raise ValueError(f"{number} patches do not fill a grid of {rows} x {columns} with one decision each")
    places = _Grid(rows, columns)
    identity = np.arange(places.places)
    free = np.ones(places.places, dtype=bool) if movable is None else np.asarray(movable.cpu()).astype(bool)
    if places.borders == 0:
        return Assembly(torch.from_numpy(identity).to(patches.device), 0.0)
    evidence = [neighbour_evidence(image, measures or (mahalanobis_gradient, gaussian_ratio)) for image in images]
    across, down = (np.sum(tables, axis=0) for tables in zip(*evidence, strict=True))
    order = identity
    if free.sum() > 1:
        draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        found = _Search(places, across, down, free, draws).best(generations)
        order = found if places.evidence(found, across, down) > places.evidence(identity, across, down) else identity
    cost = -float(places.evidence(order, across, down)) / places.borders
    return Assembly(torch.from_numpy(order).to(patches.device), cost)


def reassembled(
    images: Tensor, patch_size: int, movable: Tensor, *, generator: torch.Generator, jointly: bool = True
) -> tuple[Tensor, Assembly]:
    """Images with their movable patches in the order found.

    Args:
        images: `[batch, 3, height, width]` in [0, 1].
        patch_size: Side of a patch in pixels.
        movable: `[patches]` bool, as in `reassemble`.
        generator: Source of the search.
        jointly: Whether all images stand in one order, or each in its own.

    Returns:
        The images, and the order with its mean cost.
    """
    patches, grid = to_patches(images, patch_size), (images.shape[-2] // patch_size, images.shape[-1] // patch_size)
    if jointly:
        found = reassemble(patches, grid, movable=movable, generator=generator)
        return rearrange(images, found.order, patch_size), found
    each = [reassemble(image, grid, movable=movable, generator=generator) for image in patches]
    pairs = zip(torch.split(images, 1), each, strict=True)
    ordered = torch.cat([rearrange(image, found.order, patch_size) for image, found in pairs])
    return ordered, Assembly(torch.stack([found.order for found in each]), fmean(found.cost for found in each))


class _Grid:
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


def mahalanobis_gradient(patches: Floats) -> Floats:
    """How little the step across a border resembles the steps before it, seen from both sides (Gallagher 2012).

    Args:
        patches: `[patches, 3, size, size]`, size at least 2.

    Returns:
        `[patches, patches]`: the cost of patch `b` standing to the right of patch `a`.
    """
    return _mahalanobis(patches) + _mahalanobis(patches[..., ::-1]).T


def _mahalanobis(patches: Floats) -> Floats:
    steps = (patches[..., -1] - patches[..., -2]).transpose(0, 2, 1)
    # Gallagher's dummy steps of one grey level keep the covariance of a few pixels invertible.
    unit = np.eye(3) / 255
    dummies = np.concatenate([np.zeros((1, 3)), unit, -unit, np.ones((1, 3)) / 255, -np.ones((1, 3)) / 255])
    samples = np.concatenate([steps, np.broadcast_to(dummies, (len(steps), *dummies.shape))], axis=1)
    centred = samples - samples.mean(axis=1, keepdims=True)
    covariance = np.einsum("nki,nkj->nij", centred, centred) / (samples.shape[1] - 1)
    inverse = np.linalg.inv(covariance + 1e-6 * np.eye(3))
    expected = patches[..., -1] + steps.mean(axis=1)[:, :, None]
    misses = patches[None, ..., 0] - expected[:, None]
    distance: Floats = np.einsum("abik,aij,abjk->ab", misses, inverse, misses, optimize=True)
    return np.sqrt(distance)


def gaussian_ratio(patches: Floats) -> Floats:
    """How much less likely a patch is beside another than by itself, under a smooth Gaussian image.

    The correlation of pixels falls exponentially with their distance; channels are decorrelated by their own covariance.

    Args:
        patches: `[patches, 3, size, size]`.

    Returns:
        `[patches, patches]`: the cost of patch `b` standing to the right of patch `a`.
    """
    number, _, size, _ = patches.shape
    flat = patches.reshape(number, 3, -1)
    flat = flat - flat.mean(axis=(0, 2), keepdims=True)
    colours = flat.transpose(1, 0, 2).reshape(3, -1)
    covariance = colours @ colours.T / colours.shape[1] + 1e-5 * np.eye(3)
    white = np.einsum("ij,njp->nip", np.linalg.inv(np.linalg.cholesky(covariance)), flat)
    row, column = (axis.ravel() for axis in np.meshgrid(np.arange(size), np.arange(2 * size), indexing="ij"))
    near = np.exp(-np.hypot(row[:, None] - row, column[:, None] - column) / _CORRELATION) + _NOISE * np.eye(len(row))
    here, beside = np.flatnonzero(column < size), np.flatnonzero(column >= size)
    own = near[np.ix_(here, here)]
    predict = near[np.ix_(beside, here)] @ np.linalg.inv(own)
    left_over = near[np.ix_(beside, beside)] - predict @ near[np.ix_(here, beside)]
    scale = np.linalg.inv(np.linalg.cholesky(left_over))
    seen = (white @ scale.T).reshape(number, -1)
    expected = (white @ (scale @ predict).T).reshape(number, -1)
    given = (seen**2).sum(axis=1) + (expected**2).sum(axis=1)[:, None] - 2 * expected @ seen.T
    alone = ((white @ np.linalg.inv(np.linalg.cholesky(own)).T) ** 2).sum(axis=(1, 2))
    ratio: Floats = given - alone
    return ratio


def border_evidence(costs: Floats) -> Floats:
    """Turns costs of neighbours into log-probabilities relative to chance.

    Each patch chooses its neighbour among all others with probabilities that fall exponentially with the cost, on the scale of
    its own best few; both sides of the border choose.

    Args:
        costs: `[patches, patches]`.

    Returns:
        `[patches, patches]` in nats, above 0 where two patches choose each other more than by chance.
    """
    masked = costs.astype(np.float64)
    np.fill_diagonal(masked, np.inf)
    evidence = _choice(masked) + _choice(masked.T).T
    np.fill_diagonal(evidence, -2 * _CAP)
    return evidence


def _choice(costs: Floats) -> Floats:
    number = len(costs)
    ranked = np.sort(costs, axis=1)
    scale = (ranked[:, min(_CLOSE, number - 2), None] - ranked[:, :1]) / 2 + 1e-9
    logits = -(costs - ranked[:, :1]) / scale
    normalised = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.asarray(np.maximum(normalised + np.log(number), -_CAP))


def neighbour_evidence(patches: Tensor, measures: Sequence[Measure]) -> tuple[Floats, Floats]:
    """The evidence of all measures together, for patches side by side and one above the other.

    Args:
        patches: `[patches, 3, size, size]` in [0, 1].
        measures: At least one.

    Returns:
        `[patches, patches]` in nats: of patch `b` standing to the right of patch `a`, and below it.
    """
    pixels = np.asarray(patches.detach().cpu().double())
    turned = pixels.swapaxes(2, 3)
    weight = _WEIGHT / len(measures)
    across, down = (
        weight * np.sum([border_evidence(measure(view)) for measure in measures], axis=0) for view in (pixels, turned)
    )
    return across, down


# The search


class _Search:
    """Orders grown from a patch, or around fixed ones; children keep what their parents share (Sholomon et al. 2013)."""

    def __init__(self, grid: _Grid, across: Floats, down: Floats, free: NDArray[np.bool_], draws: np.random.Generator) -> None:
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
            order[places] = pieces[linear_sum_assignment(-evidence)[1]]


class _Canvas:
    """Several orders being grown side by side, on a canvas that is larger than the grid where nothing says where it begins."""

    def __init__(self, grid: _Grid, across: Floats, down: Floats, *, anchored: bool) -> None:
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
