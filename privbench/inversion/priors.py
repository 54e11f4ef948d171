"""What natural images look like, as differentiable penalties: GradViT's R_image, R_patch, R_registration and R_extra.

All of them take candidates `[trials, batch, 3, height, width]` in [0, 1] and give one value per trial.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

__all__ = [
    "BatchNormStatistics",
    "Chroma",
    "ConsensusNorm",
    "GuidedPrior",
    "ImagePrior",
    "Normalised",
    "OutOfRange",
    "PatchBorders",
    "PixelNorm",
    "Registration",
    "SquaredNorm",
    "SquaredVariation",
    "TotalVariation",
    "WeightedVariation",
]


_LEAST = 1e-20
"""Keeps the square root of a sum of squares differentiable at zero."""


class ImagePrior(ABC):
    """A penalty on candidate images."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """The penalty, `[trials]`, of `[trials, batch, 3, height, width]` in [0, 1]."""


class GuidedPrior(ABC):
    """A penalty that differs from victim to victim."""

    @abstractmethod
    def __call__(self, images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """The penalty, `[trials]`, of `[trials, batch, 3, height, width]`, with the victim's context."""


@dataclass(frozen=True)
class WeightedVariation(GuidedPrior):
    """Total variation whose strength differs from place to place: more where the gradient says little of a patch.

    Attributes:
        weights: Name of the weight of each pixel in the context, `[height, width]`, about 1 in the mean.
    """

    weights: str

    def __call__(self, images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """Mean over pixel pairs; a pair has the larger weight of its two pixels."""
        weight = context[self.weights]
        down = (images[..., 1:, :] - images[..., :-1, :]).abs() * torch.maximum(weight[1:], weight[:-1])
        right = (images[..., :, 1:] - images[..., :, :-1]).abs() * torch.maximum(weight[:, 1:], weight[:, :-1])
        return down.flatten(1).mean(1) + right.flatten(1).mean(1)


@dataclass(frozen=True)
class Chroma(ImagePrior):
    """The mean squared distance of the channels from their mean: how colourful an image is."""

    def __call__(self, images: Tensor) -> Tensor:
        """Mean over pixels and channels."""
        return (images - images.mean(-3, keepdim=True)).square().flatten(1).mean(1)


@dataclass(frozen=True)
class OutOfRange(ImagePrior):
    """The mean distance of the pixels from [0, 1], for parametrisations that let them out."""

    def __call__(self, images: Tensor) -> Tensor:
        """Mean over pixels and channels."""
        return (images - images.clamp(0, 1)).abs().flatten(1).mean(1)


@dataclass(frozen=True)
class TotalVariation(ImagePrior):
    """The mean absolute difference of neighbouring pixels, horizontally plus vertically."""

    def __call__(self, images: Tensor) -> Tensor:
        """Anisotropic total variation per pixel pair."""
        rows = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).mean(1)
        columns = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1).mean(1)
        return rows + columns


@dataclass(frozen=True)
class PatchBorders(ImagePrior):
    """The squared differences of adjacent pixels across patch borders, both directions (GradViT's R_patch).

    Attributes:
        size: Side of a patch in pixels.
        reduction: Their sum (the paper's formula), the root of each direction's sum (as it is re-implemented), or their mean,
            whose weight means the same for images of any size.
    """

    size: int
    reduction: Literal["sum", "norm", "mean"] = "sum"

    def __call__(self, images: Tensor) -> Tensor:
        """Over borders, channels and images of the batch, each direction for itself, and the two added."""
        down = images[..., self.size :: self.size, :] - images[..., self.size - 1 : -1 : self.size, :]
        right = images[..., :, self.size :: self.size] - images[..., :, self.size - 1 : -1 : self.size]
        rows, columns = down.square().flatten(1), right.square().flatten(1)
        if self.reduction == "mean":
            return rows.mean(1) + columns.mean(1)
        if self.reduction == "norm":
            return (rows.sum(1) + _LEAST).sqrt() + (columns.sum(1) + _LEAST).sqrt()
        return rows.sum(1) + columns.sum(1)


@dataclass(frozen=True)
class SquaredNorm(ImagePrior):
    """The mean squared distance of the pixels from mid-grey: the L2 part of R_extra, in [0, 1] coordinates."""

    def __call__(self, images: Tensor) -> Tensor:
        """Mean over pixels and channels."""
        return (images - 0.5).square().flatten(1).mean(1)


@dataclass(frozen=True)
class SquaredVariation(ImagePrior):
    """Twice the mean squared difference of neighbouring pixels, vertically plus horizontally (the part TV of R_extra)."""

    def __call__(self, images: Tensor) -> Tensor:
        """Mean over pixel pairs of each direction."""
        down, right = images[..., 1:, :] - images[..., :-1, :], images[..., :, 1:] - images[..., :, :-1]
        return 2 * (down.square().flatten(1).mean(1) + right.square().flatten(1).mean(1))


@dataclass(frozen=True)
class PixelNorm(ImagePrior):
    """The Euclidean norm of all pixels of a trial, not squared (the part L2 of R_extra)."""

    def __call__(self, images: Tensor) -> Tensor:
        """Root of the sum over images, channels and pixels."""
        return (images.square().flatten(1).sum(1) + _LEAST).sqrt()


class Normalised(ImagePrior):
    """Another prior of the pixels as the model normalises them, which is how many attacks count.

    Args:
        prior: The prior.
        mean: `[3, 1, 1]`, per channel.
        std: `[3, 1, 1]`, per channel.
    """

    def __init__(self, prior: ImagePrior, mean: Tensor, std: Tensor) -> None:
        self.prior, self.mean, self.std = prior, mean, std

    def __call__(self, images: Tensor) -> Tensor:
        """Of images in [0, 1]."""
        return self.prior((images - self.mean) / self.std)


class ConsensusNorm(GuidedPrior):
    """The Euclidean distance of a trial from what all trials agree on, in normalised pixels (R_registration).

    Args:
        consensus: Name of the consensus in the context, `[trials, batch, 3, height, width]` in [0, 1].
        std: `[3, 1, 1]`, per channel.
    """

    def __init__(self, consensus: str, std: Tensor) -> None:
        self.consensus, self.std = consensus, std

    def __call__(self, images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """Root of the sum over images, channels and pixels."""
        difference = (images - context[self.consensus].detach()) / self.std
        return (difference.square().flatten(1).sum(1) + _LEAST).sqrt()


@dataclass(frozen=True)
class Registration(ImagePrior):
    """The distance of every trial from the consensus of all: the mean squared difference from their mean image.

    The consensus is a constant of each step. With one trial the penalty is 0.
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Mean over pixels of the squared difference from the trials' mean."""
        consensus = images.detach().mean(0, keepdim=True)
        return (images - consensus).square().flatten(1).mean(1)


class BatchNormStatistics(ImagePrior):
    """The distance between a candidate batch's feature statistics and those stored in a pretrained CNN (R_image).

    Sum over batch-normalisation layers of the squared differences of channel means and of channel variances.

    Args:
        network: A frozen CNN over images in [0, 1], in eval mode.
        image_size: Its native input size in pixels; larger candidates are averaged down to it, because the stored
            statistics describe photographs at that scale.
        reduction: Over the channels of a layer: their `sum` with the biased variance (the paper's formula), or their `mean`
            with the unbiased one (as it is re-implemented).

    Raises:
        ValueError: The network has no batch normalisation, is in train mode, or has parameters that require gradients.
    """

    def __init__(self, network: nn.Module, image_size: int, reduction: Literal["sum", "mean"] = "sum") -> None:
        self.reduction = reduction
        self.layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        if not self.layers:
            raise ValueError("the prior network has no batch-normalisation layer")
        if network.training or any(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError("the prior network must be frozen and in eval mode")
        self.network = network
        self.image_size = image_size

    def __call__(self, images: Tensor) -> Tensor:
        """Sum over layers; statistics are taken over the batch and all places, per trial."""
        trials = len(images)
        features = self._inputs(images.flatten(0, 1))
        total = images.new_zeros(trials)
        for layer, feature in zip(self.layers, features, strict=True):
            per_trial = feature.reshape(trials, -1, *feature.shape[1:]).transpose(1, 2).flatten(2)
            mean, variance = per_trial.mean(2), per_trial.var(2, unbiased=self.reduction == "mean")
            distance = (mean - cast(Tensor, layer.running_mean)).square()
            distance = distance + (variance - cast(Tensor, layer.running_var)).square()
            total = total + (distance.mean(1) if self.reduction == "mean" else distance.sum(1))
        return total

    def _inputs(self, images: Tensor) -> list[Tensor]:
        if images.shape[-1] > self.image_size:
            images = nn.functional.adaptive_avg_pool2d(images, self.image_size)
        captured: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            captured.append(inputs[0])

        hooks = [layer.register_forward_pre_hook(cast(Callable[..., None], keep)) for layer in self.layers]
        try:
            self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return captured
