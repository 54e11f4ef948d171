"""What the last block tells of each image of a batch, as a term for attacks by matching.

The sum of gradients hides images whose own gradient is small; what `closed_form.last_block` finds is separate for each image,
and exact. Candidates are compared with it feature by feature, in units of how much a feature varies over random images. Ours;
no paper that we know has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from privbench.adversary import Clients, Simulation
from privbench.closed_form.last_block import LastBlock, last_block
from privbench.core import ModelInput, Observation
from privbench.inversion import GuidedPrior
from privbench.models import tokens_after

__all__ = ["FeatureError", "SampleFeatures", "features_of_clients", "labels_of_images", "sample_features"]

_SENDERS, _WANTED, _UNITS = "feature-senders", "feature-target", "feature-units"
_AGREES = 0.05
"""Error of an image's features up to which they are used."""
_RANDOM = 96
"""Random images behind the units of features."""
_CHUNK = 16
_FLOOR = 0.05
"""Share of the median unit that a unit has at least."""
_COARSEST = 2
_CONTRAST = 0.25


@dataclass(frozen=True)
class SampleFeatures:
    """The features of every image of one batch, in the order of its labels.

    Attributes:
        labels: `[images]` int64, ascending.
        senders: `[images, heads, head width]`, of length one.
        target: `[images, features]`.
        units: `[images, features]`, standard deviations over random images; infinite where an image's are not known.
    """

    labels: Tensor
    senders: Tensor
    target: Tensor
    units: Tensor

    @property
    def context(self) -> dict[str, Tensor]:
        """What `FeatureError` needs of it."""
        return {_SENDERS: self.senders, _WANTED: self.target, _UNITS: self.units}


class FeatureError(GuidedPrior):
    """The mean squared error of the candidates' features, in units of how much they vary.

    Args:
        simulation: Of the clients; what differs from client to client is in the context.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation

    def __call__(self, images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """Mean over features and images, each candidate compared with the features in its own place of the batch."""
        trials = len(images)
        senders, target, units = (
            context[name].repeat(trials, *[1] * (context[name].ndim - 1)) for name in (_SENDERS, _WANTED, _UNITS)
        )
        found = _features(self.simulation, images.flatten(0, 1), context, senders)
        return ((found - target) / units).square().reshape(trials, -1).mean(dim=1)


def sample_features(simulation: Simulation, observation: Observation) -> SampleFeatures | None:
    """Solves for the features of every image.

    Args:
        simulation: What the adversary believes of this client.
        observation: Of a batch.

    Returns:
        None where nothing is known: entries of the update are not exact, or see `last_block`.
    """
    found = _found(simulation, observation)
    if found is None:
        return None
    lengths = found.senders.flatten(1).norm(dim=1)[:, None, None]
    senders = (found.senders / lengths).float()
    target = _joined(found, lengths).float()
    with torch.no_grad():
        random = _random_images(observation.image_shape[-1]).to(observation.device)
        every = [
            torch.cat(
                [
                    _features(simulation, part, simulation.view.known, one.expand(len(part), -1, -1))
                    for part in torch.split(random, _CHUNK)
                ]
            )
            for one in senders
        ]
    units = torch.stack([of_one.std(dim=0) for of_one in every])
    units = units.clamp(min=_FLOOR * float(units.median()))
    units = torch.where((found.error < _AGREES)[:, None], units, torch.inf)
    return SampleFeatures(found.labels, senders, target, units)


def features_of_clients(clients: Clients) -> tuple[Clients, list[SampleFeatures]]:
    """The features of every client's batch, and the clients with the labels that come with them, which are exact.

    Args:
        clients: Of one model, with one batch size.

    Returns:
        The list is empty where nothing is known of any of them.
    """
    views = [replace(clients.simulation, view=view) for view in clients.views]
    found = [sample_features(view, one) for view, one in zip(views, clients.observations, strict=True)]
    if all(one is None for one in found):
        return clients, []
    images = clients.observations[0].batch_size
    labels = [first if one is None else one.labels for one, first in zip(found, clients.labels, strict=True)]
    return replace(clients, labels=labels), [one or _unknown(clients.simulation, images) for one in found]


def labels_of_images(simulation: Simulation, observation: Observation, fed: Tensor) -> Tensor | None:
    """The label of each image that was recovered, by its class token in the last block.

    Args:
        simulation: What the adversary believes of this client.
        observation: Of a batch.
        fed: `[images, 3, height, width]`, what the client's model was fed.

    Returns:
        `[images]` int64; None where the last block tells nothing.
    """
    found = _found(simulation, observation)
    if found is None:
        return None
    with torch.no_grad():
        none = torch.zeros_like(found.senders).float()
        seen = _features(simulation, fed, simulation.view.known, none)[:, : found.token.shape[1]]
    distances = torch.cdist(seen.double(), found.token)
    rows, chosen = linear_sum_assignment(distances.cpu().numpy())
    labels = torch.empty_like(found.labels)
    labels[torch.as_tensor(rows)] = found.labels[torch.as_tensor(chosen)]
    return labels


def _unknown(simulation: Simulation, images: int) -> SampleFeatures:
    """What stands for the features of a batch of which none are known, beside others of which they are."""
    attention = cast(Any, simulation.model.network).blocks[-1].attn
    width, heads = attention.qkv.in_features, attention.num_heads
    senders = attention.qkv.weight.new_zeros(images, heads, width // heads)
    target = attention.qkv.weight.new_zeros(images, width * (1 + 2 * heads))
    labels = torch.zeros(images, dtype=torch.long, device=target.device)
    return SampleFeatures(labels, senders, target, torch.full_like(target, torch.inf))


def _found(simulation: Simulation, observation: Observation) -> LastBlock | None:
    if not simulation.view.entries_are_exact or len(getattr(simulation.model.network, "blocks", ())) < 2:
        return None
    grey = torch.zeros(observation.batch_size, *observation.image_shape, device=observation.device)
    if simulation.view.fed(ModelInput(grey), simulation.view.known).label_mixing is not None:
        # What the model is fed are mixtures, and which image of the batch is in which is the view's to say.
        return None
    found = last_block(simulation.model, observation)
    return found if found is not None and bool((found.error < _AGREES).any()) else None


def _joined(found: LastBlock, lengths: Tensor) -> Tensor:
    return torch.cat([found.token, found.values.flatten(1), (found.keys / lengths).flatten(1)], dim=1)


def _features(simulation: Simulation, images: Tensor, known: Mapping[str, Tensor], senders: Tensor) -> Tensor:
    """`[images, features]` of candidates `[images, 3, height, width]`, as `LastBlock` has them for these senders."""
    blocks = cast(Any, simulation.model.network).blocks
    block = blocks[-1]
    tokens = tokens_after(simulation.model, simulation.view.fed(ModelInput(images), known), len(blocks) - 1)
    tokens = block.norm1(tokens)
    query, key, value = (
        block.attn.qkv(tokens).unflatten(-1, (3, block.attn.num_heads, -1)).movedim(-3, 0).transpose(-3, -2).unbind(0)
    )
    attended = (query[:, :, :1] @ key.transpose(-2, -1) * block.attn.scale).softmax(dim=-1)[:, :, 0]
    sent = torch.einsum("bhd,bhtd->bht", senders, value)
    pulled = attended * (sent - (attended * sent).sum(dim=-1, keepdim=True))
    means = (torch.einsum("bht,btw->bhw", weight, tokens).flatten(1) for weight in (attended, pulled))
    return torch.cat([tokens[:, 0], *means], dim=1)


def _random_images(size: int) -> Tensor:
    """`[images, 3, size, size]` in [0, 1]: noise of all scales, the same for every client; no photo is used."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(_RANDOM, 3, size, size)
    side = _COARSEST
    while side < 2 * size:
        side_now = min(side, size)
        grey, colour = (torch.randn(_RANDOM, count, side_now, side_now, generator=generator) for count in (1, 3))
        scale = _COARSEST / side_now
        total += scale**0.5 * nn.functional.interpolate(grey + 0.3 * colour, (size, size), mode="bilinear", align_corners=False)
        side *= 2
    return (0.5 + _CONTRAST * total / total.std()).clamp(0, 1)
