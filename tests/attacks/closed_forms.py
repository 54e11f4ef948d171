"""What the tests of the closed forms share: client updates of trained or random victims, and scores in decibels."""

from collections.abc import Callable

import torch
from torch import Tensor

from privbench.client import observe
from privbench.core import (
    Attack,
    Observation,
    Reconstruction,
    Secret,
    ThreatModel,
    build_defense,
    resolve_defense,
)
from privbench.core.patches import to_patches
from privbench.data import open_images
from privbench.models import Victim, load_victim, resolve_victim

__all__ = ["attacked", "patch_errors", "psnr", "update"]


def update(
    defense: str = "none",
    *,
    photo: int = 0,
    batch: int = 1,
    model: str = "vit_mini_patch4_32",
    weights: str = "embedded",
    adversary: str = "unaware",
    mode: str = "eval",
    image_size: int | None = None,
    changed: Callable[[Victim], None] | None = None,
) -> tuple[Observation, Secret]:
    """A client update on embedded photos under a defense, of a victim whose weights were `changed`."""
    specs = resolve_defense(defense)
    built = build_defense(specs)
    spec = resolve_victim(model, weights, built, image_size=image_size)
    victim = load_victim(spec, built, generator=torch.Generator().manual_seed(0))
    if changed is not None:
        changed(victim)
    images, labels = open_images("photos").load(list(range(photo, photo + batch)), spec.model.image_size)
    return observe(
        victim,
        spec.model,
        built,
        images,
        labels,
        declared=specs,
        threat_model=ThreatModel.model_validate({"adversary": adversary, "model_mode": mode}),
        generator=torch.Generator().manual_seed(5),
    )


def attacked(attack: Attack, observation: Observation) -> Reconstruction:
    """The attack under a fixed seed; closed forms draw nothing."""
    return attack(observation, generator=torch.Generator().manual_seed(0))


def psnr(images: Tensor, truth: Tensor) -> float:
    """In decibels, over all pixels together."""
    return float(-10 * torch.log10((images.double() - truth.double()).square().mean()))


def patch_errors(images: Tensor, truth: Tensor, size: int = 4) -> Tensor:
    """`[patches]`, mean squared error of each patch of one image."""
    return (to_patches(images, size) - to_patches(truth, size)).double()[0].flatten(1).square().mean(dim=1)
