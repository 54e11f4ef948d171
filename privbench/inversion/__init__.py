"""The engine that optimisation attacks compose: distances, priors, schedules, label recovery, relocation, the loop."""

from privbench.inversion.engine import Inversion, Outcome, Relocation, Target, group_size
from privbench.inversion.labels import LabelRule, recover_labels
from privbench.inversion.matching import GradientDistance, LayerCosine, RowCosine, RowError, SquaredError, WholeCosine
from privbench.inversion.noise import noise_deviation, rows_without_signal
from privbench.inversion.optimisers import LBFGS, Adam
from privbench.inversion.pixel_order import unscrambled
from privbench.inversion.priors import (
    BatchNormStatistics,
    ImagePrior,
    PatchBorders,
    Registration,
    SquaredNorm,
    TotalVariation,
)
from privbench.inversion.quasi_newton import Minimum, QuasiNewton
from privbench.inversion.reassembly import Assembly, reassemble, reassembled
from privbench.inversion.relocation import relocation_order
from privbench.inversion.schedule import Constant, Cosine, Decay, Halves, Milestones, Schedule, Warmup
from privbench.inversion.step import Objective, Simulator, parameter_gradients
from privbench.inversion.terms import MatchingTerm, PriorTerm

__all__ = [
    "LBFGS",
    "Adam",
    "Assembly",
    "BatchNormStatistics",
    "Constant",
    "Cosine",
    "Decay",
    "GradientDistance",
    "Halves",
    "ImagePrior",
    "Inversion",
    "LabelRule",
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
    "noise_deviation",
    "parameter_gradients",
    "reassemble",
    "reassembled",
    "recover_labels",
    "relocation_order",
    "rows_without_signal",
    "unscrambled",
]
