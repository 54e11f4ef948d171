"""Reassembly: putting recovered patches in order by how well their borders fit, without the truth.

A client that permutes patches (naive shuffle, MJP) does not protect what they show; what remains is a jigsaw. `borders` says
which patches fit, `placement` searches for the order. Measured against others in docs/research.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from privbench.core.patches import rearrange, to_patches
from privbench.jigsaw.borders import Measure, gaussian_ratio, mahalanobis_gradient, neighbour_evidence
from privbench.jigsaw.placement import Grid, PlacementSearch

__all__ = ["Assembly", "reassemble", "reassembled"]


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
    places = Grid(rows, columns)
    identity = np.arange(places.places)
    free = np.ones(places.places, dtype=bool) if movable is None else np.asarray(movable.cpu()).astype(bool)
    if places.borders == 0:
        return Assembly(torch.from_numpy(identity).to(patches.device), 0.0)
    evidence = [neighbour_evidence(image, measures or (mahalanobis_gradient, gaussian_ratio)) for image in images]
    across, down = (np.sum(tables, axis=0) for tables in zip(*evidence, strict=True))
    order = identity
    if free.sum() > 1:
        draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        found = PlacementSearch(places, across, down, free, draws).best(generations)
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
