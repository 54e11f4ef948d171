"""How well two patches fit as neighbours: the evidence of their common border, in nats.

Two measures of border compatibility are combined: Mahalanobis gradient compatibility (Gallagher, "Jigsaw Puzzles with Pieces of
Unknown Orientation", CVPR 2012) and the likelihood ratio of two adjacent patches under a smooth Gaussian image (ours).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Floats", "Measure", "border_evidence", "gaussian_ratio", "mahalanobis_gradient", "neighbour_evidence"]

Floats = NDArray[np.float64]
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
