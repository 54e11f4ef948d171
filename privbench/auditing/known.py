"""Updates of known photos: what a client of the audited set-up would have sent of them, with and without a defense."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from privbench.client import observe
from privbench.core import LocalTraining, Observation, build_defense, resolve_defense
from privbench.data import ImageSet
from privbench.models import Victim

__all__ = ["KnownPhotos"]

_UNKNOWN_TRAINING = LocalTraining(steps=1, learning_rate=0.01)
"""What a client does where its training is not known."""
_MIRRORED = (-1, -2)
"""Along which axis the photos of each control are mirrored where they are also those of the self-test."""

_NOISE = 0x9E3779B9
"""Added to the seed of the noise, which is to be nobody else's."""


@dataclass(frozen=True)
class KnownPhotos:
    """Photos that are not the client's, and a client like the audited one.

    Attributes:
        photos: Those of the suite.
        observation: What is audited.
        victim: Its model, with the weights before training.
        seed: Of the client's random choices.
    """

    photos: ImageSet
    observation: Observation
    victim: Victim
    seed: int

    def images(self, count: int, first: int = 0) -> Tensor:
        """`[count, 3, height, width]` in [0, 1]; photos repeat where there are too few."""
        indices = [(first + number) % len(self.photos) for number in range(count)]
        return self.photos.load(indices, self.observation.model.image_size)[0].to(self.observation.device)

    def controls(self, size: int) -> list[Tensor]:
        """Batches of a size that are not the client's, nor those of the self-test: photos, grey, and noise.

        They are other photos where these suffice, else mirrored ones. An attack that failed leaves noise, which resembles the
        update of other noise.
        """
        others = []
        for number, axis in enumerate(_MIRRORED):
            first = len(self.photos) - (number + 1) * size
            photos = self.images(size, first=first)
            others.append(photos if first >= size else photos.flip(axis))
        noise = torch.rand(others[0].shape, generator=torch.Generator().manual_seed(self.seed + _NOISE)).to(others[0])
        return [*others, torch.full_like(noise, 0.5), noise]

    def update(self, defense: str, labels: Tensor | None) -> tuple[Observation, Tensor]:
        """What a client like the audited one sends of known photos, and the photos.

        Args:
            defense: Of that client, as a user writes it.
            labels: Of the photos; None: the first classes.

        Raises:
            UserError: The defense does not fit.
        """
        seen = self.observation
        specs = resolve_defense(defense)
        built = build_defense(specs)
        size = max(seen.batch_size, built.smallest_batch())
        images = self.images(size)
        if labels is None or len(labels) != size:
            labels = torch.arange(size) % seen.model.num_classes
        training = None if seen.kind == "gradient" else seen.training or _UNKNOWN_TRAINING
        told = seen.training is not None or training is None
        victim = self.victim if defense == seen.defense_text else cast(Victim, built.prepare_model(deepcopy(self.victim)))
        observation, _ = observe(
            victim,
            seen.model,
            built,
            images,
            labels.to(seen.device),
            declared=specs,
            threat_model=seen.threat_model.model_copy(update={"training": "known" if told else "hidden"}),
            generator=torch.Generator().manual_seed(self.seed),
            training=training,
            trains=seen.update,
        )
        dtype = getattr(torch, seen.dtype)
        sent = {name: value.to(dtype) for name, value in observation.update.items()}
        return replace(observation, update=sent), images
