"""The attacker's copy of the client, rebuilt from an observation alone: the mirror of `client`.

Attacks that simulate the forward pass start here; what the simulation applies depends on the adversary of the threat model.
"""

from privbench.adversary.clients import Clients, Start, matching_group_size, start_images
from privbench.adversary.finishing import postprocess_reconstruction, with_pixels_in_place
from privbench.adversary.simulation import (
    Simulation,
    believed_gradients,
    mean_cross_entropy,
    observed_residual,
    residual_loss,
    simulate,
)

__all__ = [
    "Clients",
    "Simulation",
    "Start",
    "believed_gradients",
    "matching_group_size",
    "mean_cross_entropy",
    "observed_residual",
    "postprocess_reconstruction",
    "residual_loss",
    "simulate",
    "start_images",
    "with_pixels_in_place",
]
