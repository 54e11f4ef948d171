"""How an audit knows whether a reconstruction is true, without the truth: what of the update its images account for.

Two numbers, each beside that of other photos with the same labels (the control). The explained share is strict: on a trained
model a photo with 3 % noise may explain a tenth of its update. The mean cosine similarity falls more slowly. On a model that
was hardly trained both are high for any photo, so that neither says anything without the control.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from privbench.adversary import Simulation
from privbench.core import Observation, Reconstruction, UserError
from privbench.label_recovery import recover_labels
from privbench.replay import Agreement, agreement

__all__ = ["FOUND", "PARTLY", "Evidence", "Grade", "evidence_of", "labels_of"]

FOUND, PARTLY = 0.85, 0.2
"""From these shares of the way from other photos to a perfect account on, images count as found, or as partly found."""

_GUESSES = 5
"""Classes that are tried where the update does not show the label."""

Grade = Literal["found", "partly", "nothing"]


@dataclass(frozen=True)
class Evidence:
    """What speaks for a reconstruction.

    Attributes:
        images: How the update of its images agrees with the observed one.
        others: The same of other photos, of grey and of noise with these labels: the highest of each number, and 0 at least.
    """

    images: Agreement
    others: Agreement

    @property
    def strength(self) -> float:
        """Where the images stand between other photos, 0, and a perfect account, 1, by the better of both numbers."""
        pairs = zip(self.images, self.others, strict=True)
        return max((value - other) / max(1 - other, 1e-6) for value, other in pairs)

    @property
    def grade(self) -> Grade:
        """Found, partly found, or nothing."""
        if self.strength >= FOUND:
            return "found"
        return "partly" if self.strength >= PARTLY else "nothing"

    def in_words(self) -> str:
        """As a line of a report has it."""
        share = max(self.images.explained, 0.0)
        return (
            f"explains {100 * share:.1f} % of the update (other photos {100 * self.others.explained:.1f} %), "
            f"cosine similarity {self.images.cosine:.2f} ({self.others.cosine:.2f})"
        )


def labels_of(observation: Observation, simulation: Simulation) -> Tensor | None:
    """The labels as the threat model gives them, or as they are read off the update; None where it does not show them."""
    if observation.labels is not None:
        return observation.labels
    try:
        return recover_labels(observation, simulation.model.classifier_names()[0])
    except UserError:
        return None


def evidence_of(
    observation: Observation, simulation: Simulation, found: Reconstruction, others: Sequence[Tensor]
) -> tuple[Tensor, Evidence]:
    """The labels of a reconstruction, and what speaks for it with them.

    Labels are those of the attack, of the threat model, or read off the update. Where it has no classifier, the likeliest
    classes of the images are tried, and the one that explains most is taken; then the size of the update is what it is.

    Args:
        observation: What was attacked.
        simulation: From `simulate`.
        found: The reconstruction.
        others: `[batch, 3, height, width]` in [0, 1] each, images that are not the client's; one at least.

    Returns:
        `[batch]` int64, and the evidence.
    """
    images = found.images
    labels = found.labels if found.labels is not None else labels_of(observation, simulation)
    if labels is None:
        with torch.no_grad():
            likely = simulation.logits(images).topk(min(_GUESSES, observation.model.num_classes)).indices.T
        labels = max(likely, key=lambda guess: agreement(observation, simulation, images, guess).explained)
    controls = [agreement(observation, simulation, other, labels) for other in others]
    explained, cosine = (max(0.0, *values) for values in zip(*controls, strict=True))
    return labels, Evidence(agreement(observation, simulation, images, labels), Agreement(explained, cosine))
