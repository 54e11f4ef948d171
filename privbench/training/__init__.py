"""Training a victim under a defense, and its accuracy."""

from privbench.training.evaluate import accuracy, defended_accuracy
from privbench.training.measure import MeasureOptions
from privbench.training.recipe import EpochReport, LabelledImages, TrainingPlan
from privbench.training.train import train
from privbench.training.utility import measure_utility

__all__ = [
    "EpochReport",
    "LabelledImages",
    "MeasureOptions",
    "TrainingPlan",
    "accuracy",
    "defended_accuracy",
    "measure_utility",
    "train",
]
