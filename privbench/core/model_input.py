"""What one forward pass of a model consumes: `Normalisation`, `ModelInput`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from privbench.core.errors import UserError

__all__ = ["ModelInput", "Normalisation"]


@dataclass(frozen=True)
class Normalisation:
    """What the client's pipeline subtracts from pixels in [0, 1] and divides them by; part of the model.

    Attributes:
        mean: Of each channel.
        std: Of each channel, above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (
            len(self.mean) == len(self.std) == 3 and all(map(math.isfinite, (*self.mean, *self.std))) and min(self.std) > 0
        ):
            raise UserError(f"normalisation by mean {self.mean} and std {self.std}; accepted: three numbers each, std above 0")


@dataclass(frozen=True)
class ModelInput:
    """What one forward pass consumes.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1].
        unknown_positions: `[patches]` bool, the patches whose position embedding is the shared "unknown" row; None where
            the defense has none. Patches count row by row.
        layer_noise: What layers inside the network take for this pass, a random draw or a mask: name of the network's buffer
            to `[draws, batch, ...]`, one value per image. The logits are the mean over the draws; a client makes one.
        label_mixing: `[batch, batch]`, rows that sum to one: the target of each sample as a mixture of the batch's labels;
            None where every sample has its own label.
    """

    images: Tensor
    unknown_positions: Tensor | None = None
    layer_noise: Mapping[str, Tensor] = field(default_factory=dict)
    label_mixing: Tensor | None = None

    @property
    def arguments(self) -> tuple[Tensor, Tensor | None, Mapping[str, Tensor]]:
        """The same as the victim's forward pass takes it, in order."""
        return self.images, self.unknown_positions, self.layer_noise

    def with_noise(self, noise: Mapping[str, Tensor]) -> "ModelInput":
        """The same with `noise` for these layers, by name as in `layer_noise`."""
        return replace(self, layer_noise={**self.layer_noise, **noise})

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """What the samples are to be classified as.

        Args:
            labels: `[batch]` int64, or `[batch, classes]` probabilities.
            num_classes: Of the classifier.

        Returns:
            The labels where nothing is mixed, else `[batch, classes]` probabilities.
        """
        if self.label_mixing is None:
            return labels
        if not labels.is_floating_point():
            labels = (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(self.label_mixing.dtype)
        return self.label_mixing @ labels
