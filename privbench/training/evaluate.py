"""Accuracy of a victim, as deployed and under its own defense."""

from collections.abc import Callable

import torch
from torch import Tensor

from privbench.core import Defense, ModelInput
from privbench.models import Victim

__all__ = ["accuracy", "defended_accuracy"]

_BATCH = 500


@torch.no_grad()
def _correct(victim: Victim, images: Tensor, labels: Tensor, protect: Callable[[ModelInput], ModelInput]) -> float:
    was_training = victim.training
    victim.eval()
    device = victim.mean.device
    hits = 0
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH].to(device, torch.float32) / 255
        fed = protect(ModelInput(batch))
        predicted = victim(*fed.arguments).argmax(dim=1)
        hits += int((predicted == labels[start : start + _BATCH].to(device)).sum())
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
    """Top-1 in [0, 1] when every batch of 500 goes through the defense's batch hook."""
    return _correct(victim, images, labels, lambda batch: defense.prepare_batch(victim, batch, generator).model_input)
