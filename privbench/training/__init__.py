"""Training a victim under a defense, and its accuracy."""

from privbench.training.evaluate import accuracy, defended_accuracy
from privbench.training.train import EpochReport, LabelledImages, TrainingPlan, train

__all__ = ["EpochReport", "LabelledImages", "TrainingPlan", "accuracy", "defended_accuracy", "train"]
