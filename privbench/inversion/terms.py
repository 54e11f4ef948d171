"""The terms of an objective: a gradient distance or an image prior, with a name and a weight over time."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from privbench.inversion.matching import GradientDistance, GuidedDistance
from privbench.inversion.priors import GuidedPrior, ImagePrior
from privbench.inversion.schedule import Schedule

__all__ = ["MatchingTerm", "PriorTerm"]


@dataclass(frozen=True)
class MatchingTerm:
    """A gradient distance with its weight over time."""

    name: str
    weight: Schedule
    distance: GradientDistance | GuidedDistance

    def value(
        self, candidate: Mapping[str, Tensor], observed: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]
    ) -> Tensor:
        """The distance, `[trials]`; arguments as of `GuidedDistance`."""
        if isinstance(self.distance, GuidedDistance):
            return self.distance(candidate, observed, images, context)
        return self.distance(candidate, observed)


@dataclass(frozen=True)
class PriorTerm:
    """An image prior with its weight over time."""

    name: str
    weight: Schedule
    prior: ImagePrior | GuidedPrior

    def value(self, images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """The penalty, `[trials]`, of images `[trials, batch, 3, height, width]` of the victim with this context."""
        return self.prior(images, context) if isinstance(self.prior, GuidedPrior) else self.prior(images)
