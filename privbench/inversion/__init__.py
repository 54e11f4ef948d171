"""The engine that optimisation attacks compose: distances, priors, schedules, relocation, the loop."""

from privbench.inversion.engine import Inversion, Outcome, Relocation, Target, group_size
from privbench.inversion.matching import GradientDistance, LayerCosine, RowCosine, RowError, SquaredError, WholeCosine
from privbench.inversion.optimisers import LBFGS, Adam
from privbench.inversion.priors import (
    BatchNormStatistics,
    ImagePrior,
    PatchBorders,
    Registration,
    SquaredNorm,
    TotalVariation,
)
from privbench.inversion.quasi_newton import Minimum, QuasiNewton
from privbench.inversion.relocation import relocation_order
from privbench.inversion.schedule import Constant, Cosine, Decay, Halves, Milestones, Schedule, Warmup
from privbench.inversion.step import Objective, Simulator, parameter_gradients
from privbench.inversion.terms import MatchingTerm, PriorTerm

__all__ = [
    "LBFGS",
    "Adam",
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
    "Milestones",
    "Minimum",
    "Objective",
    "Outcome",
    "PatchBorders",
    "PriorTerm",
    "QuasiNewton",
    "Registration",
    "Relocation",
    "RowCosine",
    "RowError",
    "Schedule",
    "Simulator",
    "SquaredError",
    "SquaredNorm",
    "Target",
    "TotalVariation",
    "Warmup",
    "WholeCosine",
    "group_size",
    "parameter_gradients",
    "relocation_order",
]
