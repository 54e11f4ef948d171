"""iDLG (Zhao et al., 2020, arXiv 2001.02610): the label is read off the last layer, the image is found by L-BFGS.

    argmin_x  |g(x, y) - g|² / |g|²

What is new over `dlg` is the label: for one image the row of the last layer's gradient that points against all others is that
of the true class. Other rules extend the attack to batches (`label_recovery`).
"""

from typing import ClassVar

import torch
from torch import Tensor

from privbench.adversary import Clients
from privbench.attacks.dlg import LeakageAttack
from privbench.core import Observation
from privbench.label_recovery import LabelRule

__all__ = ["ImprovedDeepLeakage"]


class ImprovedDeepLeakage(LeakageAttack):
    """Squared-error matching by L-BFGS, with labels from the last layer's gradient."""

    name: ClassVar[str] = "idlg"

    label_recovery: LabelRule = "idlg"
    """How unknown labels are recovered: `idlg` (one image, published), `last-layer` (no repeats), `bias-counts` (repeats)."""

    def labels(self, observation: Observation, generator: torch.Generator) -> dict[str, Tensor]:
        """Known labels stay as they are; others are read off."""
        (labels,) = Clients.of([observation], self.label_recovery).labels
        return {"labels": labels}
