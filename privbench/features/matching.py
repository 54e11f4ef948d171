"""Inversion of features by optimisation: the image whose simulated features come nearest, under priors of natural images.

The optimisation of deep image representations (Mahendran and Vedaldi, CVPR 2015) with the priors of the attacks on gradients.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privbench.core import Component, FeatureObservation, Reconstruction
from privbench.features.client import simulate_features
from privbench.inversion import PatchBorders, TotalVariation

__all__ = ["FeatureMatching"]


class FeatureMatching(Component):
    """Gradient descent on pixels until the simulated features are the observed ones."""

    name: ClassVar[str] = "feature-matching"
    kind: ClassVar[str] = "attack"

    steps: Annotated[int, Field(gt=0)] = 1000
    """Optimisation steps. A trained victim needs more than an untrained one (docs/research/stochastic-layers.md)."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """Adam's learning rate, pixels in [0, 1]; falls to 0 along a cosine."""
    total_variation: Annotated[float, Field(ge=0)] = 2e-2
    """Weight of total variation beside the relative squared error of the features."""
    patch_prior: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the differences across borders of patches (GradViT's)."""

    def run(self, observation: FeatureObservation, *, generator: torch.Generator) -> Reconstruction:
        """Starts at mid-grey with a little noise and returns the last iterate.

        Args:
            observation: What the attacker saw.
            generator: Source of the start.
        """
        simulation = simulate_features(observation)
        target, scale = observation.features, observation.features.square().sum().clamp(min=1e-12)
        start = 0.5 + 0.05 * torch.randn(observation.batch_size, *observation.image_shape, generator=generator)
        images = start.to(observation.device).requires_grad_(True)
        optimiser = torch.optim.Adam([images], lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        borders = PatchBorders(simulation.model.patch_size) if simulation.model.patch_size else None
        misfit = target.new_zeros(())
        for _ in range(self.steps):
            optimiser.zero_grad()
            misfit = (simulation.features(images) - target).square().sum() / scale
            penalty: Tensor = self.total_variation * TotalVariation()(images[None]).sum()
            if borders is not None:
                penalty = penalty + self.patch_prior * borders(images[None]).sum()
            (misfit + penalty).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        found = images.detach()
        return Reconstruction(
            found,
            losses={"features": float(misfit.detach())},
            steps=self.steps,
            flags=simulation.view.flags(simulation.view.inferred),
        )
