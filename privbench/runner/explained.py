"""How much of an update a reconstruction explains: the client simulated at the reconstruction, against what was observed.

The share is `1 - |sent - observed|² / |observed|²` over all parameters that were observed, where `sent` is what the adversary
believes that this client would have sent. It needs no truth, so it is there for updates from outside too. A closed form's own
residual says nothing of that kind: noise solves its equations as well as a gradient does.
"""

from dataclasses import replace

import torch
from torch import Tensor

from privbench.adversary import Simulation, simulate
from privbench.core import Observation, Reconstruction, UserError
from privbench.core.flags import EXPLAINED_LIMIT, NOT_EXPLAINED
from privbench.core.patches import from_patches, rearrange, to_patches
from privbench.label_recovery import recover_labels
from privbench.replay import explained_share

__all__ = ["share_of", "with_explained_share"]


def with_explained_share(reconstruction: Reconstruction, observation: Observation) -> Reconstruction:
    """The same with its explained share, and a flag where that is below the limit or cannot be told for want of labels.

    Args:
        reconstruction: What an attack returned.
        observation: What it saw.
    """
    share = share_of(reconstruction, observation)
    if share is None or share >= EXPLAINED_LIMIT:
        return replace(reconstruction, explained=share)
    return replace(reconstruction, explained=share, flags=tuple(dict.fromkeys((*reconstruction.flags, NOT_EXPLAINED))))


def share_of(reconstruction: Reconstruction, observation: Observation) -> float | None:
    """How much of the observed update a reconstruction explains.

    Args:
        reconstruction: What an attack returned; orders that it inferred are part of the hypothesis.
        observation: What it saw; its adversary decides what is simulated.

    Returns:
        1 where it explains all, about 0 or less where nothing; None where the labels behind the update can be neither known nor
        recovered, so that no loss can be simulated.
    """
    simulation = simulate(observation)
    labels = _labels(reconstruction, observation, simulation)
    if labels is None:
        return None
    images = _as_fed(reconstruction, simulation).to(observation.device)
    return explained_share(observation, simulation, images, labels)


def _labels(reconstruction: Reconstruction, observation: Observation, simulation: Simulation) -> Tensor | None:
    known = reconstruction.labels if reconstruction.labels is not None else observation.labels
    if known is not None:
        return known.to(observation.device)
    try:
        return recover_labels(observation, simulation.model.classifier_names()[0])
    except (UserError, KeyError):
        # The classifier is no part of the update, or the batch has more images than there are classes.
        return None


def _as_fed(reconstruction: Reconstruction, simulation: Simulation) -> Tensor:
    """The reconstruction with patches and pixels where the attack believes that the client put them."""
    images, found, size = reconstruction.images, reconstruction.inferred, simulation.model.patch_size
    if size is None:
        return images
    if found.pixel_order is not None and simulation.view.scrambled is not None:
        patches = to_patches(images, size)
        pixels = found.pixel_order.to(images.device)[None, :, None].expand(*patches.shape[:3], -1)
        moved = patches.flatten(3).gather(3, pixels).reshape(patches.shape)
        images = from_patches(moved, *images.shape[-2:])
    if found.order is not None and simulation.view.movable is not None:
        orders = found.order.to(images.device).expand(len(images), -1)
        images = torch.cat([rearrange(image[None], order, size) for image, order in zip(images, orders, strict=True)])
    return images
