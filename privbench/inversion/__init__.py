"""The engine that optimisation attacks compose: distances, priors, schedules, relocation, the loop."""

from privbench.inversion.engine import Inversion, Outcome, Target, group_size
from privbench.inversion.matching import GradientDistance, LayerCosine, RowCosine, RowError, SquaredError, WholeCosine
from privbench.inversion.optimisers import LBFGS, Adam
from privbench.inversion.priors import (
    BatchNormStatistics,
    Chroma,
    GuidedPrior,
    ImagePrior,
    OutOfRange,
    PatchBorders,
    Registration,
    SquaredNorm,
    TotalVariation,
    WeightedVariation,
)
from privbench.inversion.quasi_newton import Minimum, QuasiNewton
from privbench.inversion.relocation import Relocation, relocation_order
from privbench.inversion.schedule import Constant, Cosine, Decay, Halves, Milestones, Schedule, Warmup
from privbench.inversion.step import Objective, Simulator, parameter_gradients
from privbench.inversion.terms import MatchingTerm, PriorTerm
from privbench.inversion.variables import (
    Parametrisation,
    ParametrisationName,
    Pixels,
    Pyramid,
    Variable,
    parametrisation,
    pyramid_sizes,
)

__all__ = [
    "LBFGS",
    "Adam",
    "BatchNormStatistics",
    "Chroma",
    "Constant",
    "Cosine",
    "Decay",
    "GradientDistance",
    "GuidedPrior",
    "Halves",
    "ImagePrior",
    "Inversion",
    "LayerCosine",
    "MatchingTerm",
    "Milestones",
    "Minimum",
    "Objective",
    "OutOfRange",
    "Outcome",
    "Parametrisation",
    "ParametrisationName",
    "PatchBorders",
    "Pixels",
    "PriorTerm",
    "Pyramid",
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
    "Variable",
    "Warmup",
    "WeightedVariation",
    "WholeCosine",
    "group_size",
    "parameter_gradients",
    "parametrisation",
    "pyramid_sizes",
    "relocation_order",
]
