"""Accuracy of a victim, as deployed and under its own defense."""

from collections.abc import Callable

import torch
from torch import Tensor

from privbench.core import Defense, ModelInput
from privbench.models import Victim

__all__ = ["accuracy", "defended_accuracy", "images_at_once"]

_BATCH = 500
_RANDOM_NUMBERS = 64_000_000
"""In the layers of one batch, 256 MB in float32."""


def images_at_once(victim: Victim, defense: Defense, most: int, draws: int = 1) -> int:
    """How many images to feed together, so that what random layers draw for each of them fits into memory.

    Args:
        victim: The model.
        defense: Its defense; only one that draws at inference lowers the number.
        most: Largest answer.
        draws: Of the layers, for each image.
    """
    if not defense.draws_at_inference():
        return most
    image = victim.mean.new_zeros(1, 3, victim.image_size, victim.image_size)
    noise = defense.deployed_input(victim, ModelInput(image), torch.Generator().manual_seed(0)).layer_noise
    numbers = draws * sum(value[0].numel() for value in noise.values())
    return max(1, min(most, _RANDOM_NUMBERS // max(1, numbers)))


@torch.no_grad()
def _correct(
    victim: Victim, images: Tensor, labels: Tensor, protect: Callable[[ModelInput], ModelInput], at_once: int = _BATCH
) -> float:
    was_training = victim.training
    victim.eval()
    device = victim.mean.device
    hits = 0
    for start in range(0, len(images), at_once):
        batch = images[start : start + at_once].to(device, torch.float32) / 255
        fed = protect(ModelInput(batch))
        predicted = victim(*fed.arguments).argmax(dim=1)
        hits += int((predicted == labels[start : start + at_once].to(device)).sum())
    victim.train(was_training)
    return hits / len(images)


def accuracy(victim: Victim, images: Tensor, labels: Tensor) -> float:
    """Top-1 in [0, 1] with the plain forward pass: no mask, no shuffle, ordinary positions.

    Args:
        victim: The model; its mode is left as found.
        images: `[n, 3, height, width]` uint8.
        labels: `[n]` int64.
    """
    return _correct(victim, images, labels, lambda batch: batch)


def defended_accuracy(victim: Victim, defense: Defense, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
    """Top-1 in [0, 1] when every batch of 500, or fewer (`images_at_once`), goes through the defense's batch hook."""

    def protect(batch: ModelInput) -> ModelInput:
        return defense.prepare_batch(victim, batch, generator).model_input

    return _correct(victim, images, labels, protect, images_at_once(victim, defense, _BATCH))
