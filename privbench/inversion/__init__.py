"""The engine that optimisation attacks compose: distances, priors, schedules, relocation, the loop."""

from privbench.inversion.engine import Inversion, group_size
from privbench.inversion.equations import PatchEquations, whitening
from privbench.inversion.exchange import Exchange
from privbench.inversion.matching import (
    GradientDistance,
    GuidedDistance,
    LayerCosine,
    MeanSquaredError,
    RowCosine,
    RowError,
    SquaredError,
    WholeCosine,
)
from privbench.inversion.optimisers import LBFGS, Adam
from privbench.inversion.priors import (
    BatchNormStatistics,
    Chroma,
    ConsensusNorm,
    GuidedPrior,
    ImagePrior,
    Normalised,
    OutOfRange,
    PatchBorders,
    PixelNorm,
    Registration,
    SquaredNorm,
    SquaredVariation,
    TotalVariation,
    WeightedVariation,
)
from privbench.inversion.problem import Outcome, Target
from privbench.inversion.quasi_newton import Minimum, QuasiNewton
from privbench.inversion.registration import Alignment, Consensus, aligned_consensus
from privbench.inversion.relocation import Relocation, position_relocation, relocation_order
from privbench.inversion.schedule import Constant, Cosine, Decay, From, Milestones, Schedule, TwoPhase, Warmup
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
    "Alignment",
    "BatchNormStatistics",
    "Chroma",
    "Consensus",
    "ConsensusNorm",
    "Constant",
    "Cosine",
    "Decay",
    "Exchange",
    "From",
    "GradientDistance",
    "GuidedDistance",
    "GuidedPrior",
    "ImagePrior",
    "Inversion",
    "LayerCosine",
    "MatchingTerm",
    "MeanSquaredError",
    "Milestones",
    "Minimum",
    "Normalised",
    "Objective",
    "OutOfRange",
    "Outcome",
    "Parametrisation",
    "ParametrisationName",
    "PatchBorders",
    "PatchEquations",
    "PixelNorm",
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
    "SquaredVariation",
    "Target",
    "TotalVariation",
    "TwoPhase",
    "Variable",
    "Warmup",
    "WeightedVariation",
    "WholeCosine",
    "aligned_consensus",
    "group_size",
    "parameter_gradients",
    "parametrisation",
    "position_relocation",
    "pyramid_sizes",
    "relocation_order",
    "whitening",
]
