"""What several trials agree on: their mean, after each was aligned with the trial that is pulled towards it.

GradViT registers its seeds by RANSAC-flow before it averages them. Here images are shifted by phase correlation, or patches
are assigned to each other, because gradient matching on a vision transformer ends in permuted patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import scipy
import skimage
import torch
from torch import Tensor

from privbench.core.patches import from_patches, to_patches

__all__ = ["Alignment", "Consensus", "aligned_consensus"]

Alignment = Literal["none", "shift", "patches"]
"""`none`: the plain mean; `shift`: whole images are shifted by phase correlation; `patches`: patches are assigned."""

_FURTHEST = 0.25
"""Shifts by more than this share of the image's side are taken for errors."""


@dataclass(frozen=True)
class Consensus:
    """When and how the engine renews what the trials of a victim agree on.

    Attributes:
        name: Of the variable that holds it; the engine does not move this one.
        steps: Before which steps.
        of: From the trials `[trials, batch, 3, height, width]` to the consensus as each of them sees it, of the same shape.
    """

    name: str
    steps: frozenset[int]
    of: Callable[[Tensor], Tensor]


def aligned_consensus(images: Tensor, alignment: Alignment, patch_size: int | None = None) -> Tensor:
    """The mean of all trials, each aligned with the one in whose place the mean stands.

    Args:
        images: `[trials, batch, 3, height, width]`.
        alignment: How.
        patch_size: Side of a patch in pixels, for `patches`.

    Returns:
        `[trials, batch, 3, height, width]`.
    """
    if alignment == "none":
        return images.mean(0, keepdim=True).expand_as(images).clone()
    moved = [[_moved(other, one, alignment, patch_size) for other in images] for one in images]
    return torch.stack([torch.stack(others).mean(0) for others in moved])


def _moved(images: Tensor, towards: Tensor, alignment: Alignment, patch_size: int | None) -> Tensor:
    if alignment == "patches" and patch_size is not None:
        return torch.stack([_assigned(*pair, patch_size) for pair in zip(images, towards, strict=True)])
    return torch.stack([_shifted(*pair) for pair in zip(images, towards, strict=True)])


def _shifted(image: Tensor, towards: Tensor) -> Tensor:
    """An image `[3, height, width]`, rolled to where its brightness correlates best with another's."""
    still, moving = (np.asarray(one.mean(0).cpu().double()) for one in (towards, image))
    if np.ptp(still) == 0 or np.ptp(moving) == 0:
        return image
    shift, _, _ = cast(Any, skimage.registration.phase_cross_correlation)(still, moving)
    down, right = (round(float(one)) for one in shift)
    if max(abs(down) / image.shape[1], abs(right) / image.shape[2]) > _FURTHEST:
        return image
    return image.roll((down, right), dims=(1, 2))


def _assigned(image: Tensor, towards: Tensor, size: int) -> Tensor:
    """An image `[3, height, width]` with its patches where another has the most similar ones, one to one."""
    ours, theirs = (to_patches(one[None], size)[0] for one in (image, towards))
    distance = torch.cdist(theirs.flatten(1), ours.flatten(1)).square()
    # Equal evidence must not move anything.
    distance = distance - 1e-9 * torch.eye(len(distance), device=image.device)
    _, order = scipy.optimize.linear_sum_assignment(np.asarray(distance.detach().cpu().double()))
    return from_patches(ours[torch.from_numpy(order).to(image.device)][None], image.shape[1], image.shape[2])[0]
