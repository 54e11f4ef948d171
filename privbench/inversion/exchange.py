"""Exchange: moving patches between the images of a batch, each to the image whose neighbouring patches it continues.

The gradient of a batch is a sum. It says which patches stand in a place, and hardly which of them is whose, so that matching
ends in mosaics: every image has patches of all. Borders tell: the patches of one photo continue each other. This is ours and in
no paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor

from privbench.core.patches import from_patches, to_patches

__all__ = ["Exchange", "exchanged", "exchanged_rows", "image_of_each_place"]

_SURE = 1e-9
"""Least cost that a certainty is divided by, in [0, 1] pixels."""
_TURNS = 20
"""Turns over all places, at most."""

_Costs = NDArray[np.float64]


@dataclass(frozen=True)
class Exchange:
    """When patches are exchanged, and what goes with them.

    Attributes:
        steps: Before which steps.
        patch_size: In pixels.
        rows: Free variables `[batch, rows, ...]` of which each patch has a row, and the row of the first patch.
    """

    steps: frozenset[int]
    patch_size: int
    rows: Mapping[str, int] = field(default_factory=dict)


def image_of_each_place(images: Tensor, patch_size: int) -> Tensor:
    """From which image each image takes its patch in each place, for borders that fit.

    The surest of all pairs of neighbouring places decide first how the images of one place go with those of the other; then
    every place is dealt anew by all of its neighbours, until nothing changes.

    Args:
        images: `[batch, 3, height, width]` in [0, 1].
        patch_size: In pixels.

    Returns:
        `[places, batch]` int64: image i takes the patch of image `order[place, i]`. Borders do not tell which
        image is the first: as many patches as can be stay in theirs, and with them what no patch has a row of.
    """
    height, width = images.shape[-2] // patch_size, images.shape[-1] // patch_size
    patches = to_patches(images.detach().double(), patch_size)
    edges = _edges(height, width)
    if not edges:  # One patch is the whole image.
        return torch.arange(len(images), device=images.device)[None]
    costs = {edge: _border(patches, *edge, below=edge[1] - edge[0] == width and width > 1).cpu().numpy() for edge in edges}
    order = _by_surest(costs, height * width, len(images))
    near: list[list[tuple[int, _Costs]]] = [[] for _ in range(height * width)]
    for (one, other), cost in costs.items():
        near[one].append((other, cost))
        near[other].append((one, cost.T))
    for _ in range(_TURNS):
        before = order.copy()
        for place, neighbours in enumerate(near):
            # Cost of patch a of this place in image i: the sum over neighbours, whose patch in image i is known.
            total = sum(cost[:, order[other]] for other, cost in neighbours)
            patch, image = linear_sum_assignment(total)
            order[place, image] = patch
        if (order == before).all():
            break
    return torch.from_numpy(_numbered(order)).to(images.device)


def exchanged(images: Tensor, order: Tensor, patch_size: int) -> Tensor:
    """Images `[batch, 3, height, width]` with their patches taken from others: `order` is `[places, batch]`."""
    patches = to_patches(images, patch_size)
    return from_patches(_taken(patches, order), images.shape[-2], images.shape[-1])


def exchanged_rows(values: Tensor, order: Tensor, first: int) -> Tensor:
    """A variable `[batch, rows, ...]` whose rows from `first` on go with the patches."""
    end = first + len(order)
    return torch.cat([values[:, :first], _taken(values[:, first:end], order), values[:, end:]], dim=1)


def _taken(values: Tensor, order: Tensor) -> Tensor:
    """`[batch, places, ...]`."""
    return values[order.T, torch.arange(len(order), device=order.device)]


def _edges(height: int, width: int) -> list[tuple[int, int]]:
    """Neighbouring places, row by row."""
    across = [(row * width + one, row * width + one + 1) for row in range(height) for one in range(width - 1)]
    down = [(row * width + one, (row + 1) * width + one) for row in range(height - 1) for one in range(width)]
    return across + down


def _border(patches: Tensor, one: int, other: int, *, below: bool) -> Tensor:
    """`[batch, batch]`, mean difference across the border of every patch of a place and every one of the next."""
    near = patches[:, one, :, -1, :] if below else patches[:, one, :, :, -1]
    far = patches[:, other, :, 0, :] if below else patches[:, other, :, :, 0]
    return (near[:, None] - far[None]).abs().mean(dim=(2, 3))


def _by_surest(costs: Mapping[tuple[int, int], _Costs], places: int, images: int) -> NDArray[np.int64]:
    """`[places, images]`, by a tree of the neighbours that tell most surely which of their patches go together."""
    together, doubts = {}, []
    for edge, cost in costs.items():
        rows, columns = linear_sum_assignment(cost)
        least, second = float(cost[rows, columns].sum()), np.inf
        for row, column in zip(rows, columns, strict=True):
            without = cost.copy()
            without[row, column] = cost.max() * images + 1
            second = min(second, float(without[linear_sum_assignment(without)].sum()))
        # Patch a of the one place goes with patch columns[a] of the other.
        together[edge], together[edge[::-1]] = columns, np.argsort(columns)
        doubts.append(-(second - least) / (least + _SURE))
    ones, others = zip(*costs, strict=True)
    graph = coo_array((1 + np.argsort(np.argsort(doubts, kind="stable")), (ones, others)), shape=(places, places))
    order = np.tile(np.arange(images), (places, 1))
    reached, parents = breadth_first_order(minimum_spanning_tree(graph), 0, directed=False)
    for place in reached[1:]:
        order[place] = together[int(parents[place]), int(place)][order[parents[place]]]
    return order


def _numbered(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same images, numbered so that as many patches as can be stay in theirs."""
    images = order.shape[1]
    stay = (order[:, :, None] == np.arange(images)).sum(axis=0)
    old, new = linear_sum_assignment(stay, maximize=True)
    return order[:, old[np.argsort(new)]]
