"""One client of the embedded victim, for the tests of attacks by gradient matching."""

from typing import Any

import torch
from torch import Tensor

from privbench.client import observe
from privbench.core import Observation, Secret, ThreatModel, build_defense, resolve_defense
from privbench.data import open_images
from privbench.models import load_victim, resolve_victim

__all__ = ["observe_client"]


def observe_client(
    defense: str = "none",
    images: Tensor | None = None,
    labels: list[int] | None = None,
    threat: dict[str, Any] | None = None,
    model: str = "vit_mini_patch4_32",
) -> tuple[Observation, Secret]:
    """What a client sends, and its secret: one photo where no images are given."""
    specs = resolve_defense(defense)
    built = build_defense(specs)
    victim_spec = resolve_victim(model, "embedded", built)
    victim = load_victim(victim_spec, built, generator=torch.Generator().manual_seed(0))
    if images is None:
        images, found = open_images("photos").load([0], 32)
        labels = found.tolist()
    return observe(
        victim,
        victim_spec.model,
        built,
        images,
        torch.tensor(labels),
        declared=specs,
        threat_model=ThreatModel(**(threat or {})),
        generator=torch.Generator().manual_seed(5),
    )
