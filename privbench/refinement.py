"""A few patches that are known badly, from the whole update: Gauss-Newton on their pixels, all others as they are.

Where a token's own gradient is small, a closed form of the first block gives its patch badly. The gradients of all layers
depend on it through the attention, and with all other patches and the labels known these are far more equations than it has
pixels. Ours.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from privbench.adversary import Simulation
from privbench.core import ModelInput, Observation
from privbench.core.patches import from_patches, to_patches

__all__ = ["MOST_PATCHES", "refined"]

MOST_PATCHES = 16
"""How many patches are refined at most: each pixel costs a gradient of its image."""
_ENTRIES = 32768
"""Entries of the update that are compared, drawn from all of them."""
_LEAST = 64
"""Entries of each parameter, at least."""
_MOVE = 1e-4
"""By how much a pixel is moved for its derivative."""
_STEPS = 60
"""At most. The derivative is that of the start, so that a step leaves about half of the error."""
_STALLED = 1e-3
"""Share of the error below which a step's gain ends it."""
_NEAR = 1e-2
"""Relative error of the update up to which a step is worth taking; further off something else is wrong than a few patches."""


class _Update:
    """The update as one vector of sampled entries, all parameters with the same weight."""

    def __init__(self, simulation: Simulation, observation: Observation, labels: Tensor) -> None:
        # In float32 the pixels that matter least would drown in the rounding of their derivatives.
        self.simulation, self.labels = replace(simulation, model=deepcopy(simulation.model).double()), labels
        every = {
            name: value.detach() for name, value in self.simulation.model.named_parameters() if name in observation.gradients
        }
        self.sizes = {name: observation.gradients[name].norm() for name in every}
        self.parameters = {name: value for name, value in every.items() if float(self.sizes[name]) > 0}
        total = sum(value.numel() for value in self.parameters.values())
        generator = torch.Generator().manual_seed(0)
        self.entries = {
            name: torch.randperm(value.numel(), generator=generator)[: max(_LEAST, _ENTRIES * value.numel() // total)]
            for name, value in self.parameters.items()
        }
        self.observed = self._sampled({name: observation.gradients[name].double() for name in self.parameters})

    def of(self, fed: Tensor) -> Tensor:
        """Of images that the model is fed."""
        return sum((self.share(one, image) for one, image in enumerate(fed)), torch.zeros_like(self.observed))

    def share(self, one: int, image: Tensor) -> Tensor:
        """What one image `[3, height, width]` has in it: the loss is a mean over images, and the update a sum."""
        loss, label = self.simulation.loss, self.labels[one : one + 1]
        own = torch.func.grad(lambda values: loss(image[None], label, parameters=values))(self.parameters)
        return self._sampled(own) / len(self.labels)

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
    update, cut = _Update(simulation, observation, labels), to_patches(fed.double(), size)
    error = update.observed - update.of(fed.double())
    if not error.norm() < _NEAR * update.observed.norm():
        return fed
    jacobian = torch.stack([slope for one in range(len(fed)) for slope in _slopes(update, one, cut[one], chosen[one])], dim=1)
    factor, best, pixels = torch.linalg.qr(jacobian), fed, cut[chosen].flatten()
    for _ in range(_STEPS):
        step = torch.linalg.solve_triangular(factor.R, factor.Q.T @ error[:, None], upper=True)[:, 0]
        pixels = pixels + step
        patches = cut.clone()
        patches[chosen] = pixels.reshape(-1, *cut.shape[2:])
        there = from_patches(patches, *fed.shape[-2:])
        error_there = update.observed - update.of(there)
        gain = 1 - float(error_there.norm() / error.norm())
        if not gain > 0:
            break
        best, error = there.clamp(0, 1).to(fed), error_there
        if gain < _STALLED:
            break
    return best


def _slopes(update: _Update, one: int, patches: Tensor, chosen: Tensor) -> Iterator[Tensor]:
    """The derivative of the update by each pixel of the chosen patches of one image, in the order of `patches[chosen]`."""
    side = round(len(patches) ** 0.5) * patches.shape[-1]
    pixels, begun = patches[chosen].flatten(), None
    for place in range(len(pixels)):
        begun = update.share(one, from_patches(patches[None], side, side)[0]) if begun is None else begun
        moved, cut = pixels.clone(), patches.clone()
        moved[place] += _MOVE
        cut[chosen] = moved.reshape(-1, *patches.shape[1:])
        yield (update.share(one, from_patches(cut[None], side, side)[0]) - begun) / _MOVE
