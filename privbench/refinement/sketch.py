"""A random sketch of an update's derivative by all pixels: small enough for a matrix, and as long in all directions.

Each entry of the update is added, with a random sign, to one of a few sums: the count sketch of Clarkson and Woodruff (STOC
2013), but that the sums take entries in turn. Their normal matrix is near that of all entries.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from privbench.adversary import residual_loss
from privbench.refinement.update import Update

__all__ = ["normal_matrix", "sketch"]

_OVER = 2
"""Rows of the sketch for each pixel."""
_TANGENTS = 48
"""Pixels whose derivatives are computed together."""


def sketch(update: Update, fed: Tensor, residual: Tensor, told: Callable[[int, int], None]) -> Tensor:
    """The derivative by all pixels, its entries added up in a few sums with random signs: `[sums, pixels]`.

    Args:
        update: Whose entries they are.
        fed: Where, `[images, 3, height, width]`.
        residual: `[images, classes]`, derivatives by the logits, held fast.
        told: Is told how many of how many pixels are done.
    """
    pixels, rows = fed[0].numel(), min(len(update.observed), _OVER * fed.numel())
    signs = torch.randint(2, update.observed.shape, generator=torch.Generator().manual_seed(0))
    weights = [weight.flatten() for weight in update.apart((2 * signs - 1).to(update.observed))]
    fixed = {name: parameter.detach() for name, parameter in update.parameters.items()}
    sketched = update.observed.new_zeros(rows, fed.numel())
    for one in range(len(fed)):
        image, context = fed[one : one + 1].to(update.observed), {"residual": residual[one : one + 1].to(update.observed)}

        def loss(parameters: Mapping[str, Tensor], image: Tensor, context: Mapping[str, Tensor] = context) -> Tensor:
            return residual_loss(update.simulation)(parameters, image, context)

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


def normal_matrix(sketch: Tensor, spread: Tensor) -> Tensor:
    """`[pixels, pixels]` float64, the normal matrix of a sketch by pixels, in units."""
    scaled = sketch.double() * spread.flatten()
    return scaled.T @ scaled


def _add(sums: Tensor, begin: int, values: Tensor, weights: Tensor) -> None:
    """Adds `[n, entries]`, weighed, to `[n, rows]`: the first entry in row `begin`, and from the last row on to the first."""
    rows, done = sums.shape[1], 0
    while done < len(weights):
        row = (begin + done) % rows
        length = min(rows - row, len(weights) - done)
        sums[:, row : row + length].addcmul_(values[:, done : done + length], weights[done : done + length])
        done += length
