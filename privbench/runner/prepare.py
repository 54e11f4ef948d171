"""From a case to the things it names: images, defense, victim and attack, loaded and checked; nothing is written."""

from dataclasses import dataclass
from functools import cached_property

import torch

from privbench.client import observe
from privbench.core import (
    ATTACKS,
    Attack,
    Case,
    Defense,
    Observation,
    Secret,
    UserError,
    build_defense,
    ensemble_members,
    generator_for,
    is_ensemble,
)
from privbench.data import ImageSet, open_images
from privbench.models import Victim, load_victim

__all__ = ["Prepared", "prepare"]

_ROUNDING = 1e-3
"""Relative difference of two gradients that devices may make by the order of their sums."""


@dataclass(frozen=True)
class Prepared:
    """Everything that a case names.

    Attributes:
        case: The case.
        images: Its data set, with labels that the victim knows.
        defense: Its defenses as one.
        victim: The client's model, on the device.
        device: Where to compute.
    """

    case: Case
    images: ImageSet
    defense: Defense
    victim: Victim
    device: torch.device

    @property
    def batches(self) -> int:
        """Number of client batches."""
        return len(self.case.data.indices) // self.case.batch_size

    def indices(self, batch: int) -> tuple[int, ...]:
        """Positions of a batch's images in the data set."""
        size = self.case.batch_size
        return self.case.data.indices[batch * size : (batch + 1) * size]

    @cached_property
    def attack(self) -> Attack:
        """The attack; an ensemble is none.

        Raises:
            UserError: There is no such attack, or it does not take these parameters.
        """
        attack: Attack = ATTACKS.get(self.case.attack.name).configured(self.case.attack.parameters)
        return attack

    @property
    def flags(self) -> frozenset[str]:
        """What a reader of the scores must know of images and victim."""
        flags = set(self.images.flags)
        if self.case.victim.weights == "random":
            flags.add("random-weights")
        if self.victim.changed_after_training:
            flags.add("defense-added-after-training")
        return frozenset(flags)

    def observe(self, batch: int) -> tuple[Observation, Secret]:
        """The client's update for one batch and the client's secret, the same at every call.

        Raises:
            UserError: Images, labels, model and defense do not fit.
        """
        return self._observe(batch, generator_for(self.case, "client", batch))

    def is_random(self) -> bool:
        """Whether what the client sends depends on its random choices: masks, orders, noise."""
        one, other = (self._observe(0, torch.Generator().manual_seed(seed))[0].gradients for seed in (0, 1))
        return any(
            (gradient - other[name]).norm() > _ROUNDING * gradient.norm().clamp_min(1e-30) for name, gradient in one.items()
        )

    def _observe(self, batch: int, generator: torch.Generator) -> tuple[Observation, Secret]:
        images, labels = self.images.load(self.indices(batch), self.case.victim.model.image_size)
        return observe(
            self.victim,
            self.case.victim.model,
            self.defense,
            images.to(self.device),
            labels.to(self.device),
            declared=self.case.defense,
            threat_model=self.case.threat_model,
            generator=generator,
            training=self.case.local,
        )


def prepare(case: Case, device: torch.device) -> Prepared:
    """Loads what a case names and checks that it fits together, down to the first client update.

    Args:
        case: What to run.
        device: Where to compute.

    Raises:
        UserError: Something is missing, is not what the case says, or does not fit.
    """
    images = _images(case)
    defense = build_defense(case.defense)
    # The seed alone: random victims are the same for every attack and defense, so that those compare.
    victim = load_victim(case.victim, defense, generator=torch.Generator().manual_seed(case.seed))
    prepared = Prepared(case, images, defense, victim.to(device), device)
    observation, _ = prepared.observe(0)
    if is_ensemble(case):
        ensemble_members(case)
    else:
        prepared.attack.require(observation)
    return prepared


def _images(case: Case) -> ImageSet:
    if len(case.data.indices) % case.batch_size:
        raise UserError(
            f"{len(case.data.indices)} images do not fill batches of {case.batch_size}; "
            "choose a number of images that is a multiple of the batch size"
        )
    model = case.victim.model
    images = open_images(case.data.source, split=case.data.split).for_classes(model.num_classes)
    found = images.fingerprint(case.data.indices, model.image_size)
    if found != case.data.sha256:
        raise UserError(
            f"the images of {case.data.source} are not those of the case (sha256 {found[:12]}, the case has "
            f"{case.data.sha256[:12]}); name them with --data to make a new case of them"
        )
    return images
