"""The terms of an objective: a gradient distance or an image prior, with a name and a weight over time."""

from dataclasses import dataclass

from privbench.inversion.matching import GradientDistance
from privbench.inversion.priors import ImagePrior
from privbench.inversion.schedule import Schedule

__all__ = ["MatchingTerm", "PriorTerm"]


@dataclass(frozen=True)
class MatchingTerm:
    """A gradient distance with its weight over time."""

    name: str
    weight: Schedule
    distance: GradientDistance


@dataclass(frozen=True)
class PriorTerm:
    """An image prior with its weight over time."""

    name: str
    weight: Schedule
    prior: ImagePrior
