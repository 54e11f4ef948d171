"""How much of the client's random choices an attack inferred: which patches were masked, and in which order patches stood.

Both scores compare with the secret, so they judge an attack and never steer one. Masks and orders are those of
`core.InferredChoices`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from privbench.core import InferredChoices
from privbench.core.patches import to_patches

__all__ = ["ChoiceScores", "mask_accuracy", "order_accuracy", "score_choices"]

_SAME = 0.5 / 255
"""Patches that differ by no more than this in any value look the same with 8 bits."""


@dataclass(frozen=True)
class ChoiceScores:
    """What was inferred about one image; None where nothing was, or where the client had nothing to choose.

    Attributes:
        mask_accuracy: See the function of that name.
        order_accuracy: See the function of that name.
    """

    mask_accuracy: float | None = None
    order_accuracy: float | None = None


def mask_accuracy(inferred: Tensor, truth: Tensor) -> float:
    """The balanced accuracy of a mask: the mean of the shares told right among masked and among unmasked patches.

    A guess that does not depend on the client's mask has 0.5 in expectation, whatever the mask ratio. Where all patches are
    masked, or none, the share told right of all.

    Args:
        inferred: `[patches]` bool.
        truth: The same.

    Returns:
        In [0, 1].
    """
    right = inferred.to(truth.device) == truth
    return fmean(float(right[kind].double().mean()) for kind in (truth, ~truth) if kind.any())


def order_accuracy(
    inferred: Tensor, truth: Tensor, reconstruction: Tensor, original: Tensor, patch_size: int, *, shared: Tensor | None = None
) -> float | None:
    """The share of patches that an inferred order puts at their right place of the image.

    A fed patch is known by its place, because every place has a position row of its own. The patches that share the unknown
    row (MJP) are interchangeable, and the attacker's numbering of them cannot be the client's: such a patch of the
    reconstruction is taken for the private patch that it resembles most, by the assignment with the least squared error among
    them. Only these count where the others were not moved. A place is right also where a patch stands that is
    identical, to half a grey level, to the one that belongs there. A random order of `n` different patches has 1/n in
    expectation.

    Args:
        inferred: `[patches]` int64, the inferred place in the image of the patch at each place of the fed one.
        truth: The same, as the client chose it.
        reconstruction: `[3, height, width]`, patches in the inferred order.
        original: `[3, height, width]`.
        patch_size: Side of a patch in pixels.
        shared: `[patches]` bool, which share the unknown row and were permuted among themselves; None: each has its own row.

    Returns:
        In [0, 1]; None where no patch was moved.
    """
    private = to_patches(original[None], patch_size)[0].double().flatten(1).cpu()
    inferred, belongs = inferred.cpu(), truth.cpu()
    if shared is not None:
        places = shared.cpu().nonzero().flatten()
        if not len(places):
            return None
        fed = to_patches(reconstruction[None], patch_size)[0].double().flatten(1).cpu()[inferred[places]]
        resembles = linear_sum_assignment(cdist(fed.numpy(), private[truth.cpu()[places]].numpy(), "sqeuclidean"))[1]
        belongs = belongs.clone()
        belongs[places] = truth.cpu()[places][torch.as_tensor(resembles)]
        if torch.equal(truth.cpu()[~shared.cpu()], (~shared.cpu()).nonzero().flatten()):
            inferred, belongs = inferred[places], belongs[places]
    same = (private[inferred] - private[belongs]).abs().amax(dim=1) <= _SAME
    return float(same.double().mean())


def score_choices(
    inferred: InferredChoices,
    truth: InferredChoices,
    reconstruction: Tensor,
    original: Tensor,
    patch_size: int | None,
    *,
    source: Sequence[int],
) -> list[ChoiceScores]:
    """Scores what an attack inferred about a batch.

    Args:
        inferred: As in `Reconstruction.inferred`; mask and order are scored.
        truth: What the client chose, one for the whole batch.
        reconstruction: `[batch, 3, height, width]` in [0, 1].
        original: The same shape and range.
        patch_size: Side of a patch in pixels; None where the victim has none, and then nothing is scored.
        source: Which reconstruction is paired with each original (`pair`).

    Returns:
        One entry per original.

    Raises:
        RuntimeError: An attack broke its contract: a mask that is none, or an order that is no permutation.
    """
    results = []
    for image, paired in enumerate(source):
        mask = order = None
        if patch_size and inferred.mask is not None and truth.mask is not None:
            mask = mask_accuracy(_checked("mask", inferred.mask, truth.mask, paired), truth.mask)
        if patch_size and inferred.order is not None and truth.order is not None:
            guess = _checked("order", inferred.order, truth.order, paired)
            pictures = reconstruction[paired], original[image]
            order = order_accuracy(guess, truth.order, *pictures, patch_size, shared=truth.mask)
        results.append(ChoiceScores(mask, order))
    return results


def _checked(kind: str, inferred: Tensor, truth: Tensor, image: int) -> Tensor:
    """What was inferred of one image, if it has the form of a choice."""
    guess = inferred if inferred.ndim == 1 else inferred[image]
    fits = guess.shape == truth.shape and guess.dtype == truth.dtype
    if fits and kind == "order":
        fits = torch.equal(guess.cpu().sort().values, torch.arange(len(truth)))
    if not fits:
        raise RuntimeError(
            f"inferred {kind} is {guess.dtype} {tuple(guess.shape)}; expected {truth.dtype} {tuple(truth.shape)}, "
            "and of an order each place once"
        )
    return guess
