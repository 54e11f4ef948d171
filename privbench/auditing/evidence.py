"""How an audit knows whether a reconstruction is true, without the truth: the share of the update that it explains."""

import torch
from torch import Tensor

from privbench.adversary import Simulation
from privbench.core import Observation, Reconstruction, UserError
from privbench.label_recovery import recover_labels
from privbench.replay import explained_share

__all__ = ["EXPLAINED", "PARTLY", "labels_and_share"]

EXPLAINED = 0.9
"""From this explained share on, images count as found."""
PARTLY = 0.3
"""From this share on, something of the images is found."""

_GUESSES = 5
"""Classes that are tried where the update does not show the label."""


def labels_and_share(observation: Observation, simulation: Simulation, found: Reconstruction) -> tuple[Tensor, float]:
    """The labels of a reconstruction and the share of the update that it explains with them.

    Labels are those of the attack, of the threat model, or read off the update. Where it has no classifier, the likeliest
    classes of the images are tried, and the one that explains most is taken; then the size of the update is what it is.

    Args:
        observation: What was attacked.
        simulation: From `simulate`.
        found: The reconstruction.

    Returns:
        `[batch]` int64, and the share, at most 1.
    """
    images = found.images
    labels = found.labels if found.labels is not None else observation.labels
    if labels is None:
        try:
            labels = recover_labels(observation, simulation.model.classifier_names()[0])
        except UserError:
            labels = None
    if labels is not None and observation.batch_size == 1:
        return labels, explained_share(observation, simulation, images, labels)
    if labels is None:
        with torch.no_grad():
            likely = simulation.logits(images).topk(min(_GUESSES, observation.model.num_classes)).indices.T
        shares = [explained_share(observation, simulation, images, guess) for guess in likely]
        best = max(range(len(shares)), key=shares.__getitem__)
        return likely[best], shares[best]
    return labels, explained_share(observation, simulation, images, labels)
