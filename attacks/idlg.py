"""iDLG (Zhao et al., 2020, arXiv 2001.02610): the label is read off the last layer, the image is found by L-BFGS.

    argmin_x  |g(x, y) - g|² / |g|²

What is new over `dlg` is the label: for one image the row of the last layer's gradient that points against all others is that
of the true class. Other rules extend the attack to batches (`label_recovery`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from privbench.adversary import Clients
from privbench.attacks.dlg import LeakageStart, leak, leakage_start
from privbench.core import Attack, Observation, Progress, Reconstruction
from privbench.inversion import LBFGS, LabelRule

__all__ = ["ImprovedDeepLeakage"]


class ImprovedDeepLeakage(Attack):
    """Squared-error matching by L-BFGS, with labels from the last layer's gradient."""

    name: ClassVar[str] = "idlg"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {},
        "paper": {"steps": 300, "learning_rate": 1.0, "start": "standard-normal"},
    }

    steps: Annotated[int, Field(gt=0)] = 40
    """Steps of each trial, of `evaluations` iterations each."""
    trials: Annotated[int, Field(gt=0)] = 1
    """Independent trials, one after the other; the one with the smallest matching loss is returned."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Length of a step relative to the quasi-Newton one (published: 1)."""
    evaluations: Annotated[int, Field(gt=0)] = 20
    """Iterations of L-BFGS within one step."""
    start: LeakageStart = "grey"
    """Start images: `standard-normal`, deviation 1 around 0 (published); uniform in [0, 1]; normal around mid-grey (deviation
    0.25); or mid-grey with a little noise (0.05)."""
    label_recovery: LabelRule = "idlg"
    """How unknown labels are recovered: `idlg` (one image, published), `last-layer` (no repeats), `bias-counts` (repeats)."""

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Reads off the labels, then optimises the pixels."""
        (labels,) = Clients.of([observation], self.label_recovery).labels
        images = leakage_start(self.start, self.trials, observation, generator)
        solver = LBFGS(self.learning_rate, self.evaluations)
        return leak(observation, images, {"labels": labels}, steps=self.steps, solver=solver, progress=progress)
