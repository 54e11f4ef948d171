"""Pixel order: putting the pixels inside recovered patches back in their places by how images vary, without the truth.

A client that permutes pixels within patches (pixel shuffle) does not protect their colours; neighbouring pixels are alike, in a
patch and across borders. One permutation of all patches is the most likely one under a smooth Gaussian image: a quadratic
assignment (`quadratic_assignment`). A permutation of each patch is guessed from what surrounds it. Measured in
defenses/README.md.
"""

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from privbench.closed_form.smoothness import grid_correlation
from privbench.core import ScrambledPixels
from privbench.core.patches import from_patches, to_patches
from privbench.jigsaw.borders import Floats
from privbench.jigsaw.placement import Ints
from privbench.jigsaw.quadratic_assignment import QuadraticAssignment

__all__ = ["pixel_order", "pixel_orders", "unscrambled"]

_NOISE = 0.1
"""White noise in the Gaussian image, as a share of its variance: edges and errors of the recovery."""
_COARSE_NOISE = 100.0
"""The same for the relaxation: so much that only the coarsest resemblances count, and the search sees where it has to go."""
_BRIGHTEST = 2.0
"""Standard deviations of an image at which its colours are cut off."""
_CHAINS = 12
"""Most chains of reassignments; fewer where two of them end at the same cost, which wrong orders hardly ever do."""
_SHARES = (0.35, 0.5)
"""Share of the places that are assigned anew in a round, for one chain after another: large enough to move whole regions, small
enough that what stays tells where they belong."""
_DRAWS = 200
"""Rounds of perturbed assignments where each patch has its own order; the second half is averaged."""
_TEMPERATURE = 1.0
"""Scale of the perturbation, in standard deviations of the image's colours."""


def unscrambled(
    images: Tensor, patch_size: int, scrambled: ScrambledPixels, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images with the pixels of every patch in the order found.

    Args:
        images: `[batch, 3, height, width]` in [0, 1], their patches in place.
        patch_size: Side of a patch in pixels.
        scrambled: How the client may have permuted them.
        generator: Source of the search.

    Returns:
        The images, and the permutations that were undone in the client's form, `[patches, pixels]` int64: the pixel of the
        image's patch that each place of the fed patch holds.
    """
    draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    cut = to_patches(images, patch_size)
    patches = cut.flatten(3)
    if scrambled.per == "batch":
        order = torch.from_numpy(pixel_order(images, patch_size, draws)).expand(patches.shape[1], -1)
    else:
        order = torch.from_numpy(pixel_orders(images, patch_size, draws))
    order = order.to(images.device)
    placed = patches.gather(3, order[None, :, None].expand_as(patches)).view_as(cut)
    return from_patches(placed, *images.shape[-2:]), order.argsort(dim=1)


# One order for all patches


def pixel_order(images: Tensor, patch_size: int, draws: np.random.Generator) -> Ints:
    """The most likely order of pixels, one for all patches of all images.

    Args:
        images: `[batch, 3, height, width]`.
        patch_size: Side of a patch in pixels.
        draws: Source of the search.

    Returns:
        `[pixels]`: place `i` of a patch should hold the pixel that is now at `order[i]`. Pixels stay as they are where the
        search finds nothing more likely.
    """
    moments = _moments(images, patch_size)
    fine = QuadraticAssignment(_precisions(patch_size, _NOISE), moments)
    start = QuadraticAssignment(_precisions(patch_size, _COARSE_NOISE), moments).relaxed()
    best = fine.swapped(start)
    least, identity = fine.cost(best), np.arange(patch_size**2)
    for chain in range(_CHAINS):
        order = fine.swapped(fine.reassigned(start, _SHARES[chain % len(_SHARES)], draws))
        cost = fine.cost(order)
        if np.isclose(cost, least, rtol=1e-9, atol=0):
            break
        if cost < least:
            best, least = order, cost
    return best if least < fine.cost(identity) else identity


def _moments(images: Tensor, size: int) -> Floats:
    """How the pixels of patches go together: `[5, pixels, pixels]`, in `_precisions`' order, of images of unit variance.

    Entry `a, b` is the mean product of pixel `a` of a patch and pixel `b` of the same patch, of its neighbour to the right,
    below, below to the right, and below to the left.
    """
    centred = images.detach().cpu().double()
    centred = centred - centred.mean(dim=(2, 3), keepdim=True)
    centred = centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
    # A few bright things on dark ground would otherwise outvote all the rest.
    centred = centred.clamp(-_BRIGHTEST, _BRIGHTEST)
    centred = centred - centred.mean(dim=(2, 3), keepdim=True)
    grid = to_patches(centred, size).reshape(len(images), images.shape[-2] // size, -1, images.shape[1], size**2)
    pairs = (
        (grid, grid),
        (grid[:, :, :-1], grid[:, :, 1:]),
        (grid[:, :-1], grid[:, 1:]),
        (grid[:, :-1, :-1], grid[:, 1:, 1:]),
        (grid[:, :-1, 1:], grid[:, 1:, :-1]),
    )
    products = [torch.einsum("nrcka,nrckb->ab", here, there) / max(1, here.shape[:4].numel()) for here, there in pairs]
    return np.asarray(torch.stack(products))


def _precisions(size: int, noise: float) -> Floats:
    """What a smooth Gaussian image weighs `_moments` with: `[5, pixels, pixels]`.

    From the inverse covariance of four patches in a square; more than that tells little, because pixels depend on near ones.
    """
    pixels = size**2
    numbers = torch.arange(4 * pixels).reshape(1, 1, 2 * size, 2 * size)
    by_patch = to_patches(numbers, size).flatten()
    covariance = grid_correlation(2 * size)[by_patch][:, by_patch] + noise * torch.eye(4 * pixels, dtype=torch.float64)
    blocks = torch.linalg.inv(covariance).reshape(4, pixels, 4, pixels).transpose(1, 2)
    own = blocks[0, 0] + blocks[1, 1] + blocks[2, 2] + blocks[3, 3]
    # A pair of different patches stands in the inverse twice, once from each side.
    pairs = (own, 2 * (blocks[0, 1] + blocks[2, 3]), 2 * (blocks[0, 2] + blocks[1, 3]), 2 * blocks[0, 3], 2 * blocks[1, 2])
    return np.asarray(torch.stack(pairs))


def pixel_orders(images: Tensor, patch_size: int, draws: np.random.Generator) -> Ints:
    """A likely order of pixels for each place of the patch grid, common to the images of a batch.

    Starts from a smooth interpolation of the patches' mean colours. Then every other pixel is assigned anew to where it differs
    least from its four neighbours, with noise on the costs, so that what is uncertain varies; the mean over many rounds is what
    the pixels are assigned to at last. (Samples by perturbed optima: Papandreou and Yuille, ICCV 2011.)

    Args:
        images: `[batch, 3, height, width]`.
        patch_size: Side of a patch in pixels.
        draws: Source of the perturbations.

    Returns:
        `[patches, pixels]`, each as in `pixel_order`.
    """
    fed = images.detach().cpu().double()
    fed = fed / fed.flatten(1).std(dim=1).clamp(min=1e-6)[:, None, None, None]
    means = nn.functional.avg_pool2d(fed, patch_size)
    smooth = nn.functional.interpolate(means, scale_factor=patch_size, mode="bicubic")
    colours = _colours(fed, patch_size)
    neighbours = _Neighbours(fed.shape[-2], fed.shape[-1], patch_size)
    current = neighbours.joined(_assigned(colours, _resemblance(_colours(smooth, patch_size), colours)))
    total = torch.zeros_like(current)
    for draw in range(_DRAWS):
        places = neighbours.colour(draw % 2)
        here = current[:, places]
        costs = np.asarray(neighbours.costs(current, places))
        current = current.clone()
        current[:, places] = _assigned(here, costs + _TEMPERATURE * draws.gumbel(size=costs.shape))
        if draw >= _DRAWS // 2:
            total += current
    mean = total[:, neighbours.places] / (_DRAWS - _DRAWS // 2)
    return _places(_resemblance(mean, colours))


def _colours(images: Tensor, size: int) -> Tensor:
    """`[batch, patches, pixels, 3]`."""
    return to_patches(images, size).flatten(3).transpose(2, 3)


def _resemblance(wanted: Tensor, given: Tensor) -> Floats:
    """`[patches, places, pixels]`: squared differences of colours `[batch, patches, pixels, 3]`, over the batch."""
    return np.asarray(torch.cdist(wanted, given).square().sum(dim=0))


def _places(costs: Floats) -> Ints:
    """`[patches, places]`: which pixel each place gets at the least cost."""
    return np.stack([scipy.optimize.linear_sum_assignment(cost)[1] for cost in costs])


def _assigned(colours: Tensor, costs: Floats) -> Tensor:
    """`[batch, patches, pixels, 3]`, put where they cost least."""
    order = torch.from_numpy(_places(costs))[None, :, :, None]
    return colours.gather(2, order.expand_as(colours))


class _Neighbours:
    """Which pixels of an image lie in which patch, and beside each other.

    Args:
        height: Of the image in pixels.
        width: Of the image in pixels.
        size: Side of a patch in pixels.

    Attributes:
        places: `[patches, pixels]`, the pixels of the image, counted row by row, in each patch.
    """

    def __init__(self, height: int, width: int, size: int) -> None:
        numbers = torch.arange(height * width).reshape(1, 1, height, width)
        self.places = to_patches(numbers, size)[0, :, 0].flatten(1)
        framed = nn.functional.pad(numbers[0, 0], (1, 1, 1, 1), value=-1)
        self._beside = torch.stack([framed[1:-1, :-2], framed[1:-1, 2:], framed[:-2, 1:-1], framed[2:, 1:-1]]).flatten(1)
        row, column = torch.arange(size**2) // size, torch.arange(size**2) % size
        self._white = (row + column) % 2 == 0

    def joined(self, colours: Tensor) -> Tensor:
        """Colours by patch, `[batch, patches, pixels, 3]`, as images: `[batch, height * width, 3]`."""
        image = torch.empty_like(colours).flatten(1, 2)
        image[:, self.places.flatten()] = colours.flatten(1, 2)
        return image

    def colour(self, turn: int) -> Tensor:
        """`[patches, chosen]`: the pixels on one colour of a checkerboard."""
        return self.places[:, self._white if turn == 0 else ~self._white]

    def costs(self, images: Tensor, places: Tensor) -> Tensor:
        """`[patches, places, pixels]`: how far the colours at `places` are from the neighbours of each place."""
        given = images[:, places]
        costs = images.new_zeros(*places.shape, places.shape[1])
        for beside in self._beside[:, places]:
            distances = torch.cdist(images[:, beside.clamp(min=0)], given).sum(dim=0)
            costs += torch.where(beside[:, :, None] >= 0, distances, 0)
        return costs
