"""The engine that optimisation attacks compose: distances, priors, schedules, label recovery, relocation, the loop."""

from privbench.inversion.engine import (
    Inversion,
    MatchingTerm,
    Outcome,
    PriorTerm,
    Relocation,
    Simulator,
    candidate_gradients,
)
from privbench.inversion.labels import recover_labels
from privbench.inversion.matching import GradientDistance, LayerCosine, RowCosine, RowError, SquaredError
from privbench.inversion.priors import (
    BatchNormStatistics,
    ImagePrior,
    PatchBorders,
    Registration,
    SquaredNorm,
    TotalVariation,
)
from privbench.inversion.relocation import relocation_order
from privbench.inversion.schedule import Constant, Cosine, Decay, Halves, Schedule

__all__ = [
    "BatchNormStatistics",
    "Constant",
    "Cosine",
    "Decay",
    "GradientDistance",
    "Halves",
    "ImagePrior",
    "Inversion",
    "LayerCosine",
    "MatchingTerm",
    "Outcome",
    "PatchBorders",
    "PriorTerm",
    "Registration",
    "Relocation",
    "RowCosine",
    "RowError",
    "Schedule",
    "Simulator",
    "SquaredError",
    "SquaredNorm",
    "TotalVariation",
    "candidate_gradients",
    "recover_labels",
    "relocation_order",
]
