"""A few patches that are known badly, from the whole update: Gauss-Newton on their pixels, all others as they are.

Where a token's own gradient is small, a closed form of the first block gives its patch badly. The gradients of all layers
depend on it through the attention, and with all other patches and the labels known these are far more equations than it has
pixels. Ours.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from privbench.adversary import Simulation
from privbench.core import ModelInput, Observation
from privbench.core.patches import from_patches, to_patches

__all__ = ["MOST_PATCHES", "refined"]

MOST_PATCHES = 8
"""How many patches are refined at most: each pixel costs two gradients."""
_ENTRIES = 131072
"""Entries of the update that are compared, drawn from all of them."""
_LEAST = 64
"""Entries of each parameter, at least."""
_MOVE = 1e-2
"""By how much a pixel is moved for its derivative."""
_STEPS = 2
_NEAR = 1e-2
"""Relative error of the update up to which a step is worth taking; further off something else is wrong than a few patches."""


class _Update:
    """The update as one vector of sampled entries, all parameters with the same weight."""

    def __init__(self, simulation: Simulation, observation: Observation, labels: Tensor) -> None:
        self.simulation, self.labels = simulation, labels
        every = {name: value.detach() for name, value in simulation.model.named_parameters() if name in observation.gradients}
        self.sizes = {name: observation.gradients[name].norm() for name in every}
        self.parameters = {name: value for name, value in every.items() if float(self.sizes[name]) > 0}
        total = sum(value.numel() for value in self.parameters.values())
        generator = torch.Generator().manual_seed(0)
        self.entries = {
            name: torch.randperm(value.numel(), generator=generator)[: max(_LEAST, _ENTRIES * value.numel() // total)]
            for name, value in self.parameters.items()
        }
        self.observed = self._sampled(observation.gradients)

    def of(self, fed: Tensor) -> Tensor:
        """Of images that the model is fed."""
        loss = self.simulation.loss
        return self._sampled(torch.func.grad(lambda values: loss(fed, self.labels, parameters=values))(self.parameters))

    def _sampled(self, gradients: Mapping[str, Tensor]) -> Tensor:
        parts = []
        for name, entries in self.entries.items():
            value = gradients[name].flatten()
            share = (value.numel() / len(entries)) ** 0.5
            parts.append(value[entries.to(value.device)] / self.sizes[name] * share)
        return torch.cat(parts)


def refined(simulation: Simulation, observation: Observation, fed: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """Solves for the pixels of the patches that are chosen.

    Args:
        simulation: What the adversary believes of this client; where that moves or mixes images nothing is done.
        observation: What it saw.
        fed: `[images, 3, height, width]`, all other patches exact.
        labels: `[images]` int64.
        chosen: `[images, patches]` bool, at most `MOST_PATCHES`.

    Returns:
        Images that explain the update better, or the same ones.
    """
    size = simulation.model.patch_size
    if size is None or not 0 < int(chosen.sum()) <= MOST_PATCHES:
        return fed
    if not torch.equal(simulation.view.fed(ModelInput(fed), simulation.view.known).images, fed):
        return fed
    update, cut = _Update(simulation, observation, labels), to_patches(fed, size)

    def with_pixels(pixels: Tensor) -> Tensor:
        patches = cut.clone()
        patches[chosen] = pixels.reshape(-1, *cut.shape[2:])
        return from_patches(patches, *fed.shape[-2:])

    error = (update.observed - update.of(fed)).double()
    if not error.norm() < _NEAR * update.observed.norm():
        return fed
    pixels, best = cut[chosen].flatten(), fed
    moves = _MOVE * torch.eye(len(pixels)).to(pixels)
    slopes = [(update.of(with_pixels(pixels + move)) - update.of(with_pixels(pixels - move))) / (2 * _MOVE) for move in moves]
    jacobian = torch.stack(slopes, dim=1).double()
    for _ in range(_STEPS):
        step = torch.linalg.lstsq(jacobian, error[:, None]).solution[:, 0]
        pixels = (pixels + step.to(pixels)).clamp(0, 1)
        there = with_pixels(pixels)
        error_there = (update.observed - update.of(there)).double()
        if not error_there.norm() < error.norm():
            break
        best, error = there, error_there
    return best
